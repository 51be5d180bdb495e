//! How far an address reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// How far an address reaches. Ordered: a larger scope is reachable from further away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This machine only.
    Loopback,
    /// The local network only: private, link-local, shared (carrier) and unspecified addresses, and whatever
    /// holds no address at all.
    Private,
    /// The internet.
    Global,
}

/// How far `addr` reaches, judged by its first IP address or host name.
///
/// An address that names neither counts as [`Scope::Private`]: it is handed to fewer, not to more.
pub fn scope(addr: &Multiaddr) -> Scope {
    for part in addr {
        match part {
            Protocol::Ip4(ip) => return scope_of(IpAddr::V4(ip)),
            Protocol::Ip6(ip) => return scope_of(IpAddr::V6(ip)),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
                return scope_of_name(&name);
            }
            Protocol::Memory(_) => return Scope::Loopback,
            _ => {}
        }
    }
    Scope::Private
}

/// How far an IP address reaches.
pub(crate) fn scope_of(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => scope_of_v4(ip),
        IpAddr::V6(ip) => scope_of_v6(ip),
    }
}

fn scope_of_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, ..] = ip.octets();
    if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_private()
        || ip.is_link_local()
        || ip.is_unspecified()
        || (a == 100 && (64..128).contains(&b))
    {
        Scope::Private
    } else {
        Scope::Global
    }
}

fn scope_of_v6(ip: Ipv6Addr) -> Scope {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return scope_of_v4(v4);
    }
    if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified() {
        Scope::Private
    } else {
        Scope::Global
    }
}

fn scope_of_name(name: &str) -> Scope {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let ends_with = |suffix: &str| name.rsplit('.').next() == Some(suffix);
    if ends_with("localhost") {
        Scope::Loopback
    } else if ends_with("local") || ends_with("internal") || ends_with("lan") || !name.contains('.') {
        Scope::Private
    } else {
        Scope::Global
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Scope {
        scope(&text.parse().expect("an address"))
    }

    #[test]
    fn an_address_says_how_far_it_reaches() {
        for text in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.9.9.9/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/dns4/localhost/tcp/1",
        ] {
            assert_eq!(of(text), Scope::Loopback, "{text}");
        }
        for text in [
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/172.31.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/dns/printer.local/tcp/1",
            "/dns/printer/tcp/1",
            "/tcp/1",
        ] {
            assert_eq!(of(text), Scope::Private, "{text}");
        }
        for text in [
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/172.32.0.1/tcp/1",
            "/ip6/2001:4860::1/tcp/1",
            "/dns/site.example/tcp/1",
        ] {
            assert_eq!(of(text), Scope::Global, "{text}");
        }
        assert!(Scope::Loopback < Scope::Private && Scope::Private < Scope::Global);
    }
}
