//! The parts of user ids and server names that the protocol's rules look at.

/// The largest length of an identifier, in bytes.
pub const MAX_LENGTH: usize = 255;

/// What follows the first colon: the domain of a user id, room id or event id.
pub fn domain(identifier: &str) -> Option<&str> {
    identifier.split_once(':').map(|(_, domain)| domain)
}

/// Whether this is a user id, historical ones included: any Unicode but `:` and NUL before the server name,
/// even nothing.
pub fn is_user_id(text: &str) -> bool {
    text.len() <= MAX_LENGTH
        && text
            .strip_prefix('@')
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(localpart, server)| !localpart.contains('\0') && is_server_name(server))
}

/// Whether this is a server name: a DNS name, an IPv4 or a bracketed IPv6 address, and perhaps a port.
pub fn is_server_name(text: &str) -> bool {
    let (host_ok, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        let address_ok = (2..=45).contains(&address.len())
            && address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            && address.parse::<std::net::Ipv6Addr>().is_ok();
        (address_ok, after)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let (host, after) = text.split_at(end);
        let host_ok = (1..=255).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        (host_ok, after)
    };
    let port_ok = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
    host_ok && port_ok
}
