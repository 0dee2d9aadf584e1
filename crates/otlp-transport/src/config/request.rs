//! A request's credentials, and the texts of its outcome without secrets.

use bytes::Bytes;
use http::Request;
use http::header::PROXY_AUTHORIZATION;
use tokio::time::Instant;

use super::Config;
use crate::credentials::{RequestHead, Signed};
use crate::outcome::{Cause, Outcome};
use crate::quiet::unobserved;

impl Config {
    /// The headers of the credentials that change, for a request with this head, and with `prefix` in front of its
    /// `body`. None without such credentials; an error is the cause for which the request cannot go out.
    pub(crate) async fn sign<B>(
        &self,
        request: &Request<B>,
        prefix: Bytes,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Option<Signed>, Cause> {
        let Some(gate) = &self.credentials else { return Ok(None) };
        let (method, uri) = (request.method().clone(), self.endpoint.uri.clone());
        let mut headers = request.headers().clone();
        // The credentials of the proxy's URL are for the proxy alone, and no others are sent to it.
        let of_proxy = self.proxy.as_ref().and_then(|proxy| proxy.authorization.as_ref());
        let is_for_proxy = of_proxy.is_some() && headers.get(PROXY_AUTHORIZATION) == of_proxy;
        if is_for_proxy {
            headers.remove(PROXY_AUTHORIZATION);
        }
        let head = RequestHead::new(method, uri, headers, prefix);
        let mut signed = gate.sign(&head, body, deadline).await?;
        if is_for_proxy {
            signed.leave_out(&PROXY_AUTHORIZATION);
        }
        Ok(Some(signed))
    }

    /// The outcome of a call that went out with these credentials, without the secrets of the request.
    pub(crate) async fn settle(&self, mut outcome: Outcome, signed: Option<Signed>, deadline: Instant) -> Outcome {
        if let (Some(gate), Some(signed)) = (&self.credentials, &signed) {
            outcome = unobserved(gate.settle(outcome, signed, deadline)).await;
        }
        self.scrub(outcome, signed.as_ref())
    }

    /// Takes the secrets out of an outcome's texts: a peer may repeat a header, the path or the query of a
    /// request.
    fn scrub(&self, mut outcome: Outcome, signed: Option<&Signed>) -> Outcome {
        let clean = |text: &mut String| {
            self.secrets.remove_from(text);
            signed.into_iter().for_each(|signed| signed.scrub(text));
            self.credentials.iter().for_each(|gate| gate.scrub(text));
        };
        match &mut outcome {
            Outcome::Delivered { message, .. } => message.iter_mut().for_each(clean),
            Outcome::AcknowledgedUnreadably { cause }
            | Outcome::Retryable { cause, .. }
            | Outcome::TooLarge { cause, .. }
            | Outcome::CredentialsRenewed { cause, .. }
            | Outcome::Refused { cause, .. } => match cause {
                Cause::Connect(text)
                | Cause::Credentials(text)
                | Cause::Broken(text)
                | Cause::Unreadable(text)
                | Cause::Unexpected(text)
                | Cause::Foreign(text) => clean(text),
                Cause::Http { message, .. } | Cause::Grpc { message, .. } => clean(message),
                Cause::Timeout(_) | Cause::RequestLimit { .. } | Cause::TooOld { .. } => {}
            },
        }
        outcome
    }
}
