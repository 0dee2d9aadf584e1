//! Hosts that no proxy stands in front of.

use std::net::IpAddr;

/// Whether a host, an IPv6 address without its brackets, is the one that this program runs on.
pub(super) fn is_this_host(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        // The system connects the unspecified address to this host.
        Ok(address) => address.to_canonical().is_loopback() || address.is_unspecified(),
        Err(_) => {
            let name = host.to_ascii_lowercase();
            // RFC 6761, section 6.3. The short forms of an IPv4 address are 127.1 and the like.
            let is_short = name.starts_with("127.") && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            name == "localhost" || name.ends_with(".localhost") || is_short
        }
    }
}

/// The list of `NO_PROXY` in the form that hyper-util reads.
pub(super) struct Direct {
    /// Hosts and networks with a comma between them.
    pub(super) hosts: String,
    /// Entries that match no host.
    pub(super) unknown: Vec<String>,
}

impl Direct {
    /// Reads entries between commas or blanks, for an endpoint with this port. hyper-util knows names, addresses,
    /// networks, and `*` for each name: `*` would match no address, and a name with a port or with `*.` in front, or an
    /// address in brackets, would match nothing. The program would send to the proxy although its user excluded the
    /// host.
    pub(super) fn read(list: &str, port: u16) -> Self {
        let (mut hosts, mut unknown) = (Vec::new(), Vec::new());
        for entry in list.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty()) {
            match host_of(entry) {
                Some((host, of)) if host == "*" && of.is_none_or(|of| of == port) => {
                    hosts.extend(["*", "0.0.0.0/0", "::/0"].map(str::to_owned));
                }
                Some((host, of)) if of.is_none_or(|of| of == port) => hosts.push(host),
                Some(_) => {}
                None => unknown.push(crate::secrets::shown_endpoint(entry)),
            }
        }
        Self { hosts: hosts.join(","), unknown }
    }
}

/// The host or network of an entry, and its port if it has one.
fn host_of(entry: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if rest.is_empty() || rest.starts_with('/') => (format!("{address}{rest}"), None),
        Some((address, rest)) => (address.to_owned(), Some(rest.strip_prefix(':')?.parse().ok()?)),
        None => match entry.split_once(':') {
            // Two colons are an IPv6 address, whose port stands behind brackets.
            Some((host, port)) if !port.contains(':') => (host.to_owned(), Some(port.parse().ok()?)),
            _ => (entry.to_owned(), None),
        },
    };
    let is_network = host.split_once('/').is_some_and(|(address, bits)| {
        let most = if address.contains(':') { 128 } else { 32 };
        address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if is_network || host.parse::<IpAddr>().is_ok() || host == "*" {
        return Some((host, port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(&host).trim_end_matches('.');
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_told_by_name_and_address() {
        for host in [
            "localhost",
            "LocalHost",
            "collector.localhost",
            "127.0.0.1",
            "127.9.8.7",
            "127.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
        ] {
            assert!(is_this_host(host), "{host}");
        }
        for host in ["localhost.example", "notlocalhost", "127.example", "128.0.0.1", "10.0.0.1", "::2", "collector"] {
            assert!(!is_this_host(host), "{host}");
        }
    }

    #[test]
    fn an_entry_is_brought_into_the_form_of_the_matcher() {
        let read = |list: &str| {
            let direct = Direct::read(list, 4317);
            (direct.hosts, direct.unknown)
        };
        for (list, hosts) in [
            ("a.example, .b.example\tc", "a.example,.b.example,c"),
            ("*.a.example,*", ".a.example,*,0.0.0.0/0,::/0"),
            ("a.example.", "a.example"),
            ("a.example:4317,b.example:4318,c:4317", "a.example,c"),
            ("10.0.0.0/8,10.1.2.3:4317,10.1.2.4:1", "10.0.0.0/8,10.1.2.3"),
            ("::1,fd00::/8,[fd00::1],[fd00::2]:4317,[fd00::3]:1,[fd01::]/16", "::1,fd00::/8,fd00::1,fd00::2,fd01::/16"),
            (",, ,", ""),
        ] {
            assert_eq!(read(list), (hosts.to_owned(), Vec::new()), "{list}");
        }
        for unknown in ["http://a.example", "a.*.example", "10.0.0.0/33", "a/b", "a:b", "[::1", "a;b", "."] {
            let (hosts, found) = read(&format!("a.example,{unknown}"));
            assert_eq!((hosts.as_str(), found.len()), ("a.example", 1), "{unknown}");
        }
        assert_eq!(read("http://me:canary@a").1, ["http://***@a"]);
    }
}
