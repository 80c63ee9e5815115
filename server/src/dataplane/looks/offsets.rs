//! The field offsets of the running kernel.

use server_common::looks::Offsets;

use super::btf::{Btf, BtfError};

/// `PIDTYPE_SID` of `enum pid_type`, the same since Linux 4.19.
const SESSION: u32 = 3;

/// Finds all offsets in BTF.
pub(super) fn offsets(btf: &Btf) -> Result<Offsets, BtfError> {
    let sock = btf.structure("sock")?;
    let connection_sock = btf.structure("inet_connection_sock")?;
    // CONFIG_IPV6. The helper for UDP sockets needs the type in the kernel itself, not in a module.
    let v6 = sock
        .offset("__sk_common.skc_v6_rcv_saddr")
        .and_then(|offset| btf.structure("udp6_sock").map(|_| offset));
    // CONFIG_NET_NS.
    let net = sock.offset("__sk_common.skc_net.net");
    let task = btf.structure("task_struct")?;
    Ok(Offsets {
        state: sock.offset("__sk_common.skc_state")?,
        family: sock.offset("__sk_common.skc_family")?,
        port: sock.offset("__sk_common.skc_num")?,
        address_v4: sock.offset("__sk_common.skc_rcv_saddr")?,
        has_v6: u32::from(v6.is_ok()),
        address_v6: v6.unwrap_or_default(),
        protocol: sock.offset("sk_protocol")?,
        ack_backlog: sock.offset("sk_ack_backlog")?,
        receive_queue: sock.offset("sk_receive_queue.qlen")?,
        requests: connection_sock.offset("icsk_accept_queue.qlen.counter")?,
        fast_open: connection_sock.offset("icsk_accept_queue.fastopenq.qlen")?,
        reader_queue: btf.structure("udp_sock")?.offset("reader_queue.qlen")?,
        socket_sock: btf.structure("socket")?.offset("sk")?,
        file_inode: btf.structure("file")?.offset("f_inode")?,
        inode_number: btf.structure("inode")?.offset("i_ino")?,
        has_net: u32::from(net.is_ok()),
        net: net.unwrap_or_default(),
        net_number: btf.structure("net")?.offset("ns.inum")?,
        task_thread: task.offset("pid")?,
        task_group: task.offset("tgid")?,
        task_parent: task.offset("real_parent")?,
        task_exit_state: task.offset("exit_state")?,
        task_signal: task.offset("signal")?,
        signal_session: btf.structure("signal_struct")?.offset("pids")? + SESSION * size_of::<u64>() as u32,
        pid_number: btf.structure("pid")?.offset("numbers")? + btf.structure("upid")?.offset("nr")?,
        reads_memory: 0,
    })
}
