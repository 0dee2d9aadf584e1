//! Proxies: which one the connections of a transport go through, and the tunnel through it.

mod bypass;
mod tunnel;
mod url;

use std::ffi::OsString;
use std::fmt;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use crate::endpoint::{Endpoint, Place};
use crate::error::{ConfigError, ProxyProblem};
use crate::note::Note;
use crate::slips;
use crate::tls;

pub(crate) use tunnel::open as open_tunnel;
use url::shown;

/// A variable in both cases; the first that is set and not blank holds, as for hyper-util.
type Names = [&'static str; 2];

const HTTPS: Names = ["HTTPS_PROXY", "https_proxy"];
const HTTP: Names = ["HTTP_PROXY", "http_proxy"];
const ALL: Names = ["ALL_PROXY", "all_proxy"];
const NO: Names = ["NO_PROXY", "no_proxy"];
/// A server sets this variable for a CGI script, and `HTTP_` and the name of each header of the request for its value.
const CGI: &str = "REQUEST_METHOD";

/// A proxy. `Debug` shows no credentials.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The variable or the method that names it.
    pub(crate) setting: &'static str,
    /// The host for the resolver, an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the connection to the proxy itself is secured.
    pub(crate) is_tls: bool,
    /// `Basic` with user and password, marked sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    /// Scheme, host and port.
    pub(crate) shown: String,
}

impl Proxy {
    /// The remedy for credentials that the proxy does not accept.
    pub(crate) fn remedy(&self) -> String {
        let setting = self.setting;
        match self.authorization {
            None => format!("write user and password into {setting}: http://user:password@host:port"),
            Some(_) => format!("check user and password in {setting}"),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The proxy with the setting that names it, as a part of a sentence.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} ({})", self.shown, self.setting)
    }
}

fn is_https(endpoint: &Endpoint) -> bool {
    endpoint.uri.scheme_str() == Some("https")
}

/// Where the settings of the proxy come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Choice {
    /// No place is named: no proxy.
    #[default]
    Unset,
    /// Code wants none.
    Without,
    /// Code names one.
    Given(GivenProxy),
    /// The variables, as far as they are set.
    Environment(Variables),
}

/// The text of a setting, not yet checked. `Debug` leaves out parts that may be secret.
#[derive(Clone)]
pub(crate) struct GivenProxy {
    pub(crate) setting: &'static str,
    pub(crate) text: String,
}

impl fmt::Debug for GivenProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.setting, shown(&self.text))
    }
}

/// The variables that are set and not blank.
#[derive(Clone, Debug)]
pub(crate) struct Variables {
    https: Option<GivenProxy>,
    http: Option<GivenProxy>,
    all: Option<GivenProxy>,
    no: Option<GivenProxy>,
    /// `HTTP_PROXY` is set, and may be a header of a request here.
    is_cgi: bool,
}

impl Variables {
    pub(crate) fn read(vars: impl Fn(&str) -> Option<OsString>) -> Self {
        let first = |names: Names| {
            names.into_iter().find_map(|setting| {
                let text = vars(setting)?.to_string_lossy().into_owned();
                (!text.trim().is_empty()).then_some(GivenProxy { setting, text })
            })
        };
        let is_cgi = vars(CGI).is_some() && first([HTTP[0]; 2]).is_some();
        // The names of variables have no case on Windows: a header reaches the second name there as well.
        let http = match (is_cgi, cfg!(windows)) {
            (false, _) => HTTP,
            (true, false) => [HTTP[1]; 2],
            (true, true) => [""; 2],
        };
        Self { https: first(HTTPS), http: first(http), all: first(ALL), no: first(NO), is_cgi }
    }
}

impl Choice {
    pub(crate) fn given(setting: &'static str, text: String) -> Self {
        Self::Given(GivenProxy { setting, text })
    }

    /// Takes the variables, unless code has chosen.
    pub(crate) fn fill_from(&mut self, vars: impl Fn(&str) -> Option<OsString>) {
        if let Self::Unset = self {
            *self = Self::Environment(Variables::read(vars));
        }
    }

    /// The proxy for this endpoint. A setting that has no effect for it is not checked.
    pub(crate) fn resolve(self, endpoint: &Endpoint, notes: &mut Vec<Note>) -> Result<Option<Proxy>, ConfigError> {
        let (host, port) = match &endpoint.place {
            Place::Host { host, port } => (host.trim_end_matches('.'), *port),
            Place::Socket(_) => ("", 0),
        };
        let is_here = host.is_empty() || bypass::is_this_host(host);
        let (given, no) = match self {
            Self::Unset | Self::Without => return Ok(None),
            Self::Given(given) if is_here => {
                let why = "has no effect: the endpoint is on this host, which no proxy stands in front of";
                notes.push(Note::new(given.setting, format!("{} {why}", given.setting)));
                return Ok(None);
            }
            Self::Environment(_) if is_here => return Ok(None),
            Self::Given(given) => (given, None),
            Self::Environment(variables) => {
                let Variables { https, http, all, no, is_cgi } = variables;
                if is_cgi && http.is_none() && !is_https(endpoint) {
                    let message = "HTTP_PROXY has no effect: REQUEST_METHOD is set, as for a CGI script, whose HTTP_PROXY \
                                   is the header \"Proxy\" of the request that it answers; set http_proxy in its place";
                    notes.push(Note::new(HTTP[0], message));
                }
                match if is_https(endpoint) { https } else { http }.or(all) {
                    Some(given) => (given, no),
                    None => return Ok(None),
                }
            }
        };
        let scheme = if is_https(endpoint) { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let Ok(target) = format!("{scheme}://{host}").parse::<Uri>() else {
            return Err(given.bad(ProxyProblem::NotAUrl));
        };
        if let Some(no) = no {
            let list = bypass::Direct::read(no.unquoted(notes), port);
            if Matcher::builder().all("http://any").no(&*list.hosts).build().intercept(&target).is_none() {
                return Ok(None);
            }
            notes.extend(list.unknown.into_iter().map(|entry| {
                let message = format!(
                    "{} has the entry {entry:?}, which matches nothing: accepted are a host, .suffix, *.suffix, an \
                     address, a network such as 10.0.0.0/8, and *, each with or without :port",
                    no.setting
                );
                Note::new(no.setting, message)
            }));
        }
        let proxy = url::read(given.unquoted(notes), &target).map_err(|problem| given.bad(problem))?;
        if proxy.is_tls && !tls::IS_BUILT_IN {
            return Err(given.bad(ProxyProblem::NeedsTls));
        }
        #[cfg(feature = "_tls")]
        if proxy.is_tls && tls::server_name(&proxy.host).is_none() {
            return Err(given.bad(ProxyProblem::NoCertificateName));
        }
        Ok(Some(Proxy { setting: given.setting, ..proxy }))
    }
}

impl GivenProxy {
    /// The text without quotation marks around it, which are noted.
    fn unquoted(&self, notes: &mut Vec<Note>) -> &str {
        let Some(inner) = slips::unquoted(&self.text) else { return self.text.trim() };
        let message = format!(
            "{} has quotation marks around its value, as some env files leave them: they are not read as a part of it; \
             remove them",
            self.setting
        );
        notes.push(Note::new(self.setting, message));
        inner.trim()
    }

    fn bad(&self, problem: ProxyProblem) -> ConfigError {
        ConfigError::Proxy { setting: self.setting, value: shown(&self.text), problem }
    }
}
