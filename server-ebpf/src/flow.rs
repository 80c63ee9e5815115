//! Reads a flow's 4-tuple, from the packet or from the connection that migrates, and makes its key.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_hdr_start_off::BPF_HDR_START_NET, bpf_sock},
    helpers::bpf_skb_load_bytes_relative,
    programs::{SkReuseportContext, SockContext},
};
use server_common::{
    counters::Asked,
    flow_hash::{FlowV4, FlowV6, mapped},
    limits::NO_SLOT,
    table::Table,
};

const ETH_P_IP: u32 = (0x0800_u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86dd_u16).to_be() as u32;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// Where the flags stand in a TCP header, and two of them.
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Source and destination, next to each other in either IP header.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;

/// Source and destination port, as they lie in the transport header.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    source: u16,
    destination: u16,
}

/// A flow, as the choice needs it.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    /// What finds its bucket.
    pub(crate) key: u64,
    /// The hash of its 4-tuple; 0 where that is not the key, nobody is probed and flows are
    /// not remembered.
    pub(crate) tuple_hash: u64,
}

/// The transport header: what is asked, and between which ports.
///
/// Direct access is safe for what is read here only: the kernel has pulled the whole TCP header, or the 8 bytes of the
/// UDP header, into the linear part before it looks for a socket, and promises no more.
#[inline(always)]
pub(crate) fn transport(ctx: &SkReuseportContext) -> Option<(Asked, Ports)> {
    let (start, end) = (ctx.data(), ctx.data_end());
    let asked = match ctx.ip_protocol() {
        IPPROTO_TCP => {
            if start + TCP_FLAGS + 1 > end {
                return None;
            }
            // SAFETY: the bounds were checked above.
            let flags = unsafe { *((start + TCP_FLAGS) as *const u8) };
            if flags & (TCP_SYN | TCP_ACK) == TCP_SYN { Asked::Connection } else { Asked::Segment }
        }
        IPPROTO_UDP => Asked::Datagram,
        _ => return None,
    };
    if start + 4 > end {
        return None;
    }
    // SAFETY: the bounds were checked above; both headers begin with the ports, 2-byte aligned.
    let ports = unsafe { *(start as *const [u16; 2]) };
    Some((asked, Ports { source: ports[0], destination: ports[1] }))
}

/// The packet's flow.
#[inline(always)]
pub(crate) fn of_packet(ctx: &SkReuseportContext, ports: Ports, table: &Table) -> Option<Flow> {
    match ctx.eth_protocol() {
        ETH_P_IP => {
            let addresses: [u32; 2] = load(ctx, IPV4_SOURCE)?;
            let flow = FlowV4 {
                source: addresses[0],
                destination: addresses[1],
                source_port: ports.source,
                destination_port: ports.destination,
            };
            Some(of_v4(&flow, table))
        }
        ETH_P_IPV6 => {
            let addresses: [[u32; 4]; 2] = load(ctx, IPV6_SOURCE)?;
            let flow = FlowV6 {
                source: addresses[0],
                destination: addresses[1],
                source_port: ports.source,
                destination_port: ports.destination,
            };
            Some(of_v6(&flow, table))
        }
        _ => None,
    }
}

/// Between whom a datagram is.
#[inline(always)]
pub(crate) fn datagram(ctx: &SkReuseportContext) -> Option<FlowV6> {
    let (_, ports) = transport(ctx)?;
    let (source, destination) = match ctx.eth_protocol() {
        ETH_P_IP => {
            let [source, destination]: [u32; 2] = load(ctx, IPV4_SOURCE)?;
            (mapped(source), mapped(destination))
        }
        ETH_P_IPV6 => {
            load(ctx, IPV6_SOURCE).map(|[source, destination]: [[u32; 4]; 2]| (source, destination))?
        }
        _ => return None,
    };
    Some(FlowV6 { source, destination, source_port: ports.source, destination_port: ports.destination })
}

/// The flow of a connection that migrates. The packet is empty then, but for the final ACK.
///
/// The socket is the connection or its request: its source is our side, its destination the client. By itself, so that the chain
/// after it, the deepest calls that there are, does not stand on its stack: 512 bytes are for all together.
#[inline(never)]
pub(crate) fn of_socket(sock: &SockContext, table: &Table) -> Option<Flow> {
    let sock = sock.as_ptr() as *const bpf_sock;
    // SAFETY: the verifier knows the pointer as a socket's and checks every access; each is a field of its own width.
    unsafe {
        // The kernel gives our port in host order and the client's in network order.
        let source_port = (*sock).dst_port;
        let destination_port = ((*sock).src_port as u16).to_be();
        match (*sock).family {
            AF_INET => {
                let flow = FlowV4 {
                    source: (*sock).dst_ip4,
                    destination: (*sock).src_ip4,
                    source_port,
                    destination_port,
                };
                Some(of_v4(&flow, table))
            }
            AF_INET6 => {
                let (client, own) = (&raw const (*sock).dst_ip6, &raw const (*sock).src_ip6);
                let flow = FlowV6 {
                    source: [(*client)[0], (*client)[1], (*client)[2], (*client)[3]],
                    destination: [(*own)[0], (*own)[1], (*own)[2], (*own)[3]],
                    source_port,
                    destination_port,
                };
                Some(of_v6(&flow, table))
            }
            _ => None,
        }
    }
}

#[inline(always)]
fn of_v4(flow: &FlowV4, table: &Table) -> Flow {
    if table.keying.is_four_tuple() {
        let key = flow.hash(&table.keying.seed);
        return Flow { key, tuple_hash: key };
    }
    Flow {
        key: source_v4(flow, table),
        tuple_hash: if wants_tuple(table) { tuple_v4(flow, table) } else { 0 },
    }
}

#[inline(always)]
fn of_v6(flow: &FlowV6, table: &Table) -> Flow {
    if table.keying.is_four_tuple() {
        let key = flow.hash(&table.keying.seed);
        return Flow { key, tuple_hash: key };
    }
    Flow {
        key: source_v6(flow, table),
        tuple_hash: if wants_tuple(table) { tuple_v6(flow, table) } else { 0 },
    }
}

#[inline(always)]
fn wants_tuple(table: &Table) -> bool {
    table.probe_slot != NO_SLOT || table.flow_idle != 0
}

// Out of the way of the 4-tuple's hash: a program that fits a near cache is worth more than these calls.

#[inline(never)]
fn source_v4(flow: &FlowV4, table: &Table) -> u64 {
    table.keying.key_v4(flow)
}

#[inline(never)]
fn source_v6(flow: &FlowV6, table: &Table) -> u64 {
    table.keying.key_v6(flow)
}

#[inline(never)]
fn tuple_v4(flow: &FlowV4, table: &Table) -> u64 {
    flow.hash(&table.keying.seed)
}

#[inline(never)]
fn tuple_v6(flow: &FlowV6, table: &Table) -> u64 {
    flow.hash(&table.keying.seed)
}

/// Loads `T` from `offset` bytes after the start of the network header.
#[inline(always)]
fn load<T: Copy>(ctx: &SkReuseportContext, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `T`, which is an array of integers, or fails.
    unsafe {
        let failed = bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        ) != 0;
        if failed { None } else { Some(value.assume_init()) }
    }
}
