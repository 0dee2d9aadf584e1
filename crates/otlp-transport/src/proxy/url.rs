//! The URL of a proxy.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::Proxy;
use crate::error::ProxyProblem;
use crate::slips;

/// Reads `http[s]://[user[:password]@]host[:port]`, with or without the scheme; the proxy is one for `target`.
pub(super) fn read(text: &str, target: &Uri) -> Result<Proxy, ProxyProblem> {
    if slips::is_unexpanded(text) {
        return Err(ProxyProblem::NotExpanded);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        "socks" | "socks4" | "socks4a" | "socks5" | "socks5h" => return Err(ProxyProblem::Socks),
        // `user:` stands in front of a password that has `://` in it.
        other if other.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            return Err(ProxyProblem::UnknownScheme);
        }
        _ => return Err(ProxyProblem::NotEncoded),
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // The part of a password in front of the sign would pass for the port of a host, to which the rest is sent.
    if tail.contains('@') || authority.matches('@').nth(1).is_some() {
        return Err(ProxyProblem::NotEncoded);
    }
    if !matches!(tail, "" | "/") {
        return Err(ProxyProblem::Path);
    }
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(ProxyProblem::NotAUrl)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| ProxyProblem::NotAUrl)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(ProxyProblem::NotAUrl)?) };
            (address, port)
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(ProxyProblem::NoHost);
    }
    let port = match port {
        None if is_tls => 443,
        None => 80,
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().filter(|port| *port != 0).ok_or(ProxyProblem::BadPort)?
        }
        Some(_) => return Err(ProxyProblem::BadPort),
    };
    let matcher = Matcher::builder().all(format!("http://{authority}")).build();
    let found = matcher.intercept(target).ok_or(ProxyProblem::NotAUrl)?;
    Ok(Proxy {
        setting: "",
        host: host.to_owned(),
        port,
        authorization: found.basic_auth().cloned(),
        is_tls,
        shown: format!("{}://{place}", if is_tls { "https" } else { "http" }),
    })
}

/// The text of a proxy's setting without its possible secrets: scheme, host and port, where they can be told.
pub(super) fn shown(text: &str) -> String {
    const HIDDEN: &str = "***";
    let text = text.trim();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            (format!("{scheme}://"), rest)
        }
        Some(_) => return HIDDEN.to_owned(),
        None => (String::new(), text),
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (place, ""),
    };
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    // A text that is no place may be a part of a password, and so may one in front of an unescaped character.
    if !is_host || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) || tail.contains('@') {
        return format!("{scheme}{HIDDEN}");
    }
    let user = user.map_or(String::new(), |_| format!("{HIDDEN}@"));
    let tail = if matches!(tail, "" | "/") { "" } else { "/***" };
    format!("{scheme}{user}{place}{tail}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, u16, Option<String>, String), ProxyProblem> {
        let proxy = read(text, &Uri::from_static("http://collector"))?;
        let authorization = proxy.authorization.map(|value| value.to_str().expect("ASCII").to_owned());
        Ok((proxy.host, proxy.port, authorization, proxy.shown))
    }

    #[test]
    fn a_proxy_is_read_with_and_without_scheme_port_and_credentials() {
        // base64 of "me:pa:ss@#/" and of "me:".
        for (text, host, port, authorization, shown) in [
            ("http://proxy:3128", "proxy", 3128, None, "http://proxy:3128"),
            ("HTTP://proxy:3128/", "proxy", 3128, None, "http://proxy:3128"),
            ("proxy:3128", "proxy", 3128, None, "http://proxy:3128"),
            ("proxy", "proxy", 80, None, "http://proxy"),
            ("http://10.0.0.1", "10.0.0.1", 80, None, "http://10.0.0.1"),
            ("http://[fd00::1]:3128", "fd00::1", 3128, None, "http://[fd00::1]:3128"),
            ("http://[fd00::1]", "fd00::1", 80, None, "http://[fd00::1]"),
            ("https://proxy", "proxy", 443, None, "https://proxy"),
            ("https://me:@proxy:3129", "proxy", 3129, Some("Basic bWU6"), "https://proxy:3129"),
            (
                "http://me:pa%3Ass%40%23%2F@proxy:3128",
                "proxy",
                3128,
                Some("Basic bWU6cGE6c3NAIy8="),
                "http://proxy:3128",
            ),
            ("me:@proxy:3128", "proxy", 3128, Some("Basic bWU6"), "http://proxy:3128"),
            ("http://me@proxy", "proxy", 80, Some("Basic bWU6"), "http://proxy"),
        ] {
            let expected = (host.to_owned(), port, authorization.map(str::to_owned), shown.to_owned());
            assert_eq!(parsed(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_text_that_would_lead_elsewhere_is_refused_and_its_password_not_shown() {
        for (text, problem, seen) in [
            ("http://", ProxyProblem::NoHost, "http://"),
            ("http://me:canary@:3128", ProxyProblem::NoHost, "http://***@:3128"),
            ("http://proxy:0", ProxyProblem::BadPort, "http://proxy:0"),
            ("http://proxy:65536", ProxyProblem::BadPort, "http://proxy:65536"),
            ("http://proxy:", ProxyProblem::BadPort, "http://proxy:"),
            ("http://me:canary", ProxyProblem::BadPort, "http://***"),
            ("http://proxy:3128:1", ProxyProblem::BadPort, "http://***"),
            ("http://proxy:3128/canary", ProxyProblem::Path, "http://proxy:3128/***"),
            ("http://proxy:3128?canary", ProxyProblem::Path, "http://proxy:3128/***"),
            ("http://me:1#canary@proxy:3128", ProxyProblem::NotEncoded, "http://***"),
            ("http://me:1/canary@proxy:3128", ProxyProblem::NotEncoded, "http://***"),
            ("http://me:1?canary@proxy:3128", ProxyProblem::NotEncoded, "http://***"),
            ("http://me:canary@x@proxy:3128", ProxyProblem::NotEncoded, "http://***@proxy:3128"),
            ("me:canary://x@proxy:3128", ProxyProblem::NotEncoded, "***"),
            ("socks5://me:canary@proxy:1080", ProxyProblem::Socks, "socks5://***@proxy:1080"),
            ("SOCKS5H://proxy", ProxyProblem::Socks, "SOCKS5H://proxy"),
            ("ftp://proxy", ProxyProblem::UnknownScheme, "ftp://proxy"),
            ("http://${PROXY}:3128", ProxyProblem::NotExpanded, "http://***"),
            ("http://pro xy:3128", ProxyProblem::NotAUrl, "http://***"),
            ("http://proxy:3128 NO_PROXY=canary", ProxyProblem::BadPort, "http://***"),
            ("http://me:can\u{e4}ry@proxy", ProxyProblem::NotAUrl, "http://***@proxy"),
            ("http://[fd00::1", ProxyProblem::NotAUrl, "http://***"),
            ("http://[canary]:1", ProxyProblem::NotAUrl, "http://***"),
            ("http://[::1]x", ProxyProblem::NotAUrl, "http://***"),
        ] {
            assert_eq!((parsed(text), shown(text)), (Err(problem), seen.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_password_is_shown(before in "[a-z:/@#?%]{0,6}", after in "[a-z:/@#?% ]{0,6}", end in "[@/#? ]?") {
            for scheme in ["", "http://", "socks5://"] {
                let text = format!("{scheme}me:{before}CANARY{after}{end}@proxy:3128");
                prop_assert!(!shown(&text).contains("CANARY"), "{}", shown(&text));
                if let Ok(proxy) = parsed(&text) {
                    prop_assert_eq!((&*proxy.0, proxy.1, &*proxy.3), ("proxy", 3128, "http://proxy:3128"), "{}", text);
                }
            }
        }
    }
}
