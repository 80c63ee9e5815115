//! An HTTP server of the standard library, one thread per connection.

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

fn main() {
    let address = env::args().nth(1).expect("an address");
    let listener = TcpListener::bind(address).expect("the address can be bound");
    for stream in listener.incoming() {
        let stream = stream.expect("a connection can be accepted");
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
}
