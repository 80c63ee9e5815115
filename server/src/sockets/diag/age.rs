//! How old a half-open handshake is, from its SYN-ACK timer.

use std::time::Duration;

/// What the timers of the kernel can be late by, at most: 1 part in 7 of their interval.
const LATE_PARTS: u32 = 7;

/// No age is more than this, so that it can be added and compared freely: the longest that a request socket can
/// live is 255 retransmits (`net.ipv4.tcp_synack_retries`), 2 minutes apart.
pub(super) const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest tick of a kernel: HZ is 100 or more.
const TICK_MAX: Duration = Duration::from_millis(10);

/// The age of a request socket that has sent its SYN-ACK `retransmits` times again and will next do so in
/// `expires`: never less than the truth, so that a handshake which is older than some instant is never taken for
/// a younger one.
///
/// `inet_req_diag_fill` reports `num_retrans` and the time until `rsk_timer.expires`, 0 where that is past. The
/// timer starts at TCP_TIMEOUT_INIT, 1 s; each time it fires `reqsk_timer_handler` sends the SYN-ACK again
/// (`inet_rtx_syn_ack` counts it in `num_retrans`) and sets it to 1 s << `num_timeout`. So after n of these it
/// next fires 1 + 2 + ... + 2^n = 2^(n+1) - 1 s after the SYN, and the age is that less `expires`. To this come:
///
/// * a client that sends its SYN again: `tcp_check_req` answers, counts in `num_retrans` too, and sets the timer
///   anew to 1 s << `num_timeout`. With k of these and m timeouts the timer fires at most
///   2^(m+1) - 1 + k 2^m s after the SYN, which is never more than the 2^(m+k+1) - 1 s assumed here;
/// * the cap of TCP_RTO_MAX on one interval: the truth is then less, too;
/// * late timers: the wheel rounds a timer up to its level's granule, at most 1/7.9 of the interval, and the next
///   interval starts from there. Added for the intervals that have passed, and for the one that is overdue;
/// * one tick for the rounding of the two readings of `jiffies`.
///
/// It can be less than the truth where a program changes the first timeout (BPF_SOCK_OPS_TIMEOUT_INIT), and on
/// listeners with TCP_DEFER_ACCEPT, whose timer fires without sending while it waits for data.
pub(super) fn handshake_age(retransmits: u8, expires: Duration) -> Duration {
    // 2^17 s is more than AGE_MAX.
    let current = Duration::from_secs(1 << retransmits.min(17));
    let passed = current - Duration::from_secs(1);
    let late = if expires.is_zero() { (passed + current) / LATE_PARTS } else { passed / LATE_PARTS };
    (passed + current + late + TICK_MAX).saturating_sub(expires).min(AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(retransmits: u8, expires_ms: u64) -> u64 {
        let age = handshake_age(retransmits, Duration::from_millis(expires_ms));
        u64::try_from(age.as_millis()).unwrap()
    }

    #[test]
    fn without_a_retransmit_it_is_exact_to_the_tick() {
        assert_eq!(age(0, 1000), 10);
        assert_eq!(age(0, 400), 610);
        assert_eq!(age(0, 5000), 0, "a timer that was set later than the kernel does is no negative age");
    }

    #[test]
    fn each_retransmit_doubles_the_interval() {
        assert_eq!(age(1, 2000), 1000 + 142 + 10);
        assert_eq!(age(2, 4000), 3000 + 428 + 10);
        assert_eq!(age(5, 32_000), 31_000 + 4428 + 10);
    }

    #[test]
    fn an_overdue_timer_may_be_late() {
        assert_eq!(age(0, 0), 1000 + 142 + 10);
        assert_eq!(age(1, 0), 3000 + 428 + 10);
    }

    #[test]
    fn any_count_of_retransmits_is_an_age() {
        for retransmits in 0..=u8::MAX {
            assert!(handshake_age(retransmits, Duration::MAX).is_zero());
            assert!(handshake_age(retransmits, Duration::ZERO) >= Duration::from_secs(1));
            assert!(handshake_age(retransmits, Duration::ZERO) <= AGE_MAX);
        }
    }
}
