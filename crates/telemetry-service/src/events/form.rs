//! An event of the exporter as JSON: `type`, and its fields.

use std::time::SystemTime;

use serde_json::{Value, json};
use telemetry_manager::resilient_exporter::Event;

/// As all times of this service are written.
fn rfc3339(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| format!("{time:.3}"))
}

pub(super) fn as_json(event: &Event) -> Value {
    match event {
        Event::Breaker { endpoint, from, to } => {
            json!({"type": "breaker", "endpoint": endpoint, "from": from.to_string(), "to": to.to_string()})
        }
        Event::Spilled { spans, file } => json!({"type": "spilled", "spans": spans, "file": file}),
        Event::Replayed { delivered, other } => json!({"type": "replayed", "delivered": delivered, "other": other}),
        Event::Rejected { endpoint, spans, message } => {
            json!({"type": "rejected", "endpoint": endpoint, "spans": spans, "message": message})
        }
        Event::Refused { endpoint, spans, cause, remedy, is_suspect, .. } => json!({
            "type": "refused",
            "endpoint": endpoint,
            "spans": spans,
            "cause": cause,
            "remedy": remedy,
            "waits_alone": is_suspect,
        }),
        Event::Throttled { endpoint, pause, cause, remedy } => json!({
            "type": "throttled",
            "endpoint": endpoint,
            "pause_seconds": pause.as_secs_f64(),
            "cause": cause,
            "remedy": remedy,
        }),
        Event::AcknowledgedUnreadably { endpoint, spans, cause } => {
            json!({"type": "acknowledged_unreadably", "endpoint": endpoint, "spans": spans, "cause": cause})
        }
        Event::CollectorWarned { endpoint, message } => {
            json!({"type": "collector_warned", "endpoint": endpoint, "message": message})
        }
        Event::DeadLettered { endpoint, spans, reason } => {
            json!({"type": "dead_lettered", "endpoint": endpoint, "spans": spans, "reason": reason})
        }
        Event::EndpointChanged { from, to } => json!({"type": "endpoint_changed", "from": from, "to": to}),
        Event::DeadLettersEvicted { spans } => json!({"type": "dead_letters_evicted", "spans": spans}),
        Event::Redriven { spans } => json!({"type": "redriven", "spans": spans}),
        Event::Dropped { spans, reason, detail } => {
            json!({"type": "dropped", "spans": spans, "reason": reason.as_str(), "detail": detail})
        }
        Event::NotAccepted { spans, reason } => {
            json!({"type": "not_accepted", "spans": spans, "reason": reason.as_str()})
        }
        Event::OutageBegan { endpoint, cause, remedy, next_attempt } => json!({
            "type": "outage_began",
            "endpoint": endpoint,
            "cause": cause,
            "remedy": remedy,
            "next_attempt_seconds": next_attempt.map(|time| time.as_secs_f64()),
        }),
        Event::OutageEnded {
            endpoint,
            duration,
            from,
            to,
            cause,
            waited,
            lost,
            possible_duplicates,
            lateness,
            peak_memory_bytes,
            peak_disk_bytes,
        } => json!({
            "type": "outage_ended",
            "endpoint": endpoint,
            "duration_seconds": duration.as_secs_f64(),
            "from": from.and_then(rfc3339),
            "to": to.and_then(rfc3339),
            "cause": cause,
            "waited": waited,
            "lost": lost,
            "possible_duplicates": possible_duplicates,
            "lateness_seconds": lateness.map(|lateness| lateness.as_secs_f64()),
            "peak_memory_bytes": peak_memory_bytes,
            "peak_disk_bytes": peak_disk_bytes,
        }),
        Event::JournalTrouble { error } => json!({"type": "journal_trouble", "error": error}),
        Event::JournalVanished { spans } => json!({"type": "journal_vanished", "spans": spans}),
        Event::DiskTrouble { error } => json!({"type": "disk_trouble", "error": error}),
        // An event of a newer exporter.
        _ => json!({"type": "other"}),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use telemetry_manager::resilient_exporter::{DropReason, Position, RefuseReason};

    use super::*;

    #[test]
    fn each_event_has_a_type_of_its_own_and_its_fields() {
        let text = || "why".to_owned();
        let (remedy, duration) = ("do this", Duration::from_millis(1_500));
        let endpoint = Position::PRIMARY;
        let lost = BTreeMap::from([("buffer_full", 7)]);
        let events = [
            (Event::Spilled { spans: 3, file: text() }, "file", json!("why")),
            (Event::Replayed { delivered: 3, other: 1 }, "other", json!(1)),
            (Event::Rejected { endpoint, spans: 3, message: text() }, "message", json!("why")),
            (Event::Throttled { endpoint, pause: duration, cause: text(), remedy }, "pause_seconds", json!(1.5)),
            (Event::AcknowledgedUnreadably { endpoint, spans: 3, cause: text() }, "spans", json!(3)),
            (Event::CollectorWarned { endpoint, message: text() }, "message", json!("why")),
            (Event::DeadLettered { endpoint, spans: 3, reason: text() }, "reason", json!("why")),
            (Event::EndpointChanged { from: endpoint, to: endpoint }, "from", json!("primary")),
            (Event::DeadLettersEvicted { spans: 3 }, "spans", json!(3)),
            (Event::Redriven { spans: 3 }, "spans", json!(3)),
            (
                Event::Dropped { spans: 3, reason: DropReason::BufferFull, detail: text() },
                "reason",
                json!("buffer_full"),
            ),
            (
                Event::NotAccepted { spans: 3, reason: RefuseReason::LargerThanBuffer },
                "reason",
                json!("larger_than_buffer"),
            ),
            (
                Event::OutageBegan { endpoint, cause: text(), remedy, next_attempt: None },
                "next_attempt_seconds",
                Value::Null,
            ),
            (
                Event::OutageEnded {
                    endpoint,
                    duration,
                    from: Some(SystemTime::UNIX_EPOCH),
                    to: None,
                    cause: text(),
                    waited: 3,
                    lost,
                    possible_duplicates: 0,
                    lateness: Some(duration),
                    peak_memory_bytes: 4_096,
                    peak_disk_bytes: 0,
                },
                "lost",
                json!({"buffer_full": 7}),
            ),
            (Event::JournalTrouble { error: text() }, "error", json!("why")),
            (Event::JournalVanished { spans: 3 }, "spans", json!(3)),
            (Event::DiskTrouble { error: text() }, "error", json!("why")),
        ];
        let mut types = BTreeSet::new();
        let ended = events.iter().find(|(event, ..)| matches!(event, Event::OutageEnded { .. })).expect("listed");
        let form = as_json(&ended.0);
        assert_eq!((&form["from"], &form["to"]), (&json!("1970-01-01T00:00:00.000Z"), &Value::Null));
        assert_eq!((&form["lateness_seconds"], &form["peak_memory_bytes"]), (&json!(1.5), &json!(4_096)));
        for (event, field, value) in &events {
            let form = as_json(event);
            assert_eq!(&form[*field], value, "{form}");
            assert!(types.insert(form["type"].as_str().expect("a type").to_owned()), "{form}");
        }
        assert!(!types.contains("other"));
    }
}
