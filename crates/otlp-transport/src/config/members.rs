//! The list of failover endpoints as text: `url[;option=value]..,url..`.

use crate::config::FailoverEndpoint;
use crate::error::{ConfigError, FailoverProblem};
use crate::note::Note;
use crate::protocol::Protocol;
use crate::secrets::before_next;
use crate::slips;

/// The endpoints of one pipeline at most, the primary one included.
pub(crate) const MAX_ENDPOINTS: usize = 16;

/// The names of the settings of one member of the list, in texts.
#[derive(Debug)]
pub(crate) struct MemberNames {
    pub(crate) url: &'static str,
    pub(crate) headers: &'static str,
    pub(crate) headers_file: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) client_certificate: &'static str,
    pub(crate) client_key: &'static str,
}

/// The names of each member that a list may have.
pub(crate) type ListNames = [MemberNames; MAX_ENDPOINTS - 1];

macro_rules! list_names {
    ($list:literal: $($at:literal)+) => {
        [$(MemberNames {
            url: concat!($list, " (member ", $at, ")"),
            headers: concat!($list, " (headers of member ", $at, ")"),
            headers_file: concat!($list, " (headers-file of member ", $at, ")"),
            protocol: concat!($list, " (protocol of member ", $at, ")"),
            certificate: concat!($list, " (certificate of member ", $at, ")"),
            client_certificate: concat!($list, " (client-certificate of member ", $at, ")"),
            client_key: concat!($list, " (client-key of member ", $at, ")"),
        }),+]
    };
}

/// An addition of holdfast, as the failover itself: one list for all signals.
pub(crate) const FAILOVER_ENDPOINTS: &str = "TELEMETRY_FAILOVER_ENDPOINTS";
pub(crate) static IN_ENVIRONMENT: ListNames =
    list_names!("TELEMETRY_FAILOVER_ENDPOINTS": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
pub(crate) static IN_CODE: ListNames = list_names!("with_failover_endpoints": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// An option of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberOption {
    HeadersFile,
    Protocol,
    Certificate,
    ClientCertificate,
    ClientKey,
}

impl MemberOption {
    const ALL: [Self; 5] =
        [Self::HeadersFile, Self::Protocol, Self::Certificate, Self::ClientCertificate, Self::ClientKey];

    const fn word(self) -> &'static str {
        match self {
            Self::HeadersFile => "headers-file",
            Self::Protocol => "protocol",
            Self::Certificate => "certificate",
            Self::ClientCertificate => "client-certificate",
            Self::ClientKey => "client-key",
        }
    }

    /// The option of this name, in any case of letters.
    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| name.eq_ignore_ascii_case(key.word()))
    }

    /// The option that a name with a slip means: one letter is wrong, a sign between words is, or the end is missing.
    fn meant(name: &str) -> Option<&'static str> {
        let letters = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
        let name = letters(name);
        let is_meant = |word: &str| {
            let word = letters(word);
            slips::is_near(&name, &word) || (name.len() > 2 && word.starts_with(&name))
        };
        Self::ALL.into_iter().map(Self::word).find(|word| is_meant(word))
    }
}

/// Reads the list. Empty members and empty options are skipped.
///
/// # Errors
///
/// A [`ConfigError::Failover`] names the member and the option, and neither its value nor the URL.
pub(crate) fn read(list: &str, notes: &mut Vec<Note>) -> Result<Vec<FailoverEndpoint>, ConfigError> {
    let members = list.split(',').map(str::trim).filter(|member| !member.is_empty()).collect::<Vec<_>>();
    if members.len() >= MAX_ENDPOINTS {
        let problem = FailoverProblem::TooMany { endpoints: members.len() + 1 };
        return Err(ConfigError::Failover { setting: FAILOVER_ENDPOINTS, problem });
    }
    members.into_iter().zip(&IN_ENVIRONMENT).map(|(member, names)| read_member(member, names, notes)).collect()
}

fn read_member(
    member: &str,
    names: &'static MemberNames,
    notes: &mut Vec<Note>,
) -> Result<FailoverEndpoint, ConfigError> {
    let fail = |problem| Err(ConfigError::Failover { setting: names.url, problem });
    let mut parts = member.split(';').map(str::trim);
    let url = parts.next().unwrap_or_default();
    if url.is_empty() {
        return fail(FailoverProblem::NoUrl);
    }
    let mut endpoint = FailoverEndpoint::new(url);
    let mut given = Vec::new();
    for option in parts.filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let (name, value) = (name.trim(), value.trim());
        let Some(key) = MemberOption::of(name) else { return fail(unknown(name, value)) };
        if value.is_empty() {
            return fail(FailoverProblem::NoValue { option: key.word() });
        }
        if given.contains(&key) {
            return fail(FailoverProblem::OptionTwice { option: key.word() });
        }
        given.push(key);
        endpoint = match key {
            MemberOption::HeadersFile => endpoint.with_headers_file(value),
            MemberOption::Protocol => match Protocol::of_word(value) {
                Some((protocol, note)) => {
                    notes.extend(note.map(|note| Note::new(names.protocol, format!("{}={note}", names.protocol))));
                    endpoint.with_protocol(protocol)
                }
                None => {
                    let message = format!(
                        "{}={:?} is ignored: grpc or http/protobuf is accepted; the endpoint has the protocol that it \
                         has without the option",
                        names.protocol,
                        before_next(value)
                    );
                    notes.push(Note::new(names.protocol, message));
                    endpoint
                }
            },
            MemberOption::Certificate if value.eq_ignore_ascii_case("system") => endpoint.with_system_certificates(),
            MemberOption::Certificate => endpoint.with_certificate(value),
            MemberOption::ClientCertificate => endpoint.with_client_certificate(value),
            MemberOption::ClientKey => endpoint.with_client_key(value),
        };
    }
    Ok(endpoint)
}

/// The fault of an option with another name. The name is shown if it can be no part of a secret: a semicolon in a URL
/// or in a token makes an option of the text behind it.
fn unknown(name: &str, value: &str) -> FailoverProblem {
    let is_word =
        name.len() <= 24 && name.bytes().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'));
    let is_name = is_word && !value.is_empty() && !value.starts_with('=');
    FailoverProblem::UnknownOption { option: is_name.then(|| name.to_owned()), meant: MemberOption::meant(name) }
}
