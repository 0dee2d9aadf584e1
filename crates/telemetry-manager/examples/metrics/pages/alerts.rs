//! A row for each alert.

/// How soon a person should look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Telemetry is being lost, or is off.
    Critical,
    /// Nothing is lost yet, or by the collector's own decision.
    Warning,
}

impl Severity {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// One alert.
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    /// The expression, as [`query`](super::query) reads it.
    pub(crate) expr: &'static str,
    /// The time for which it holds before the alert fires.
    pub(crate) lasts: &'static str,
    /// `{{ $labels.instance }}` and further labels of the expression may stand in both texts.
    pub(crate) summary: &'static str,
    /// Cause and remedy.
    pub(crate) description: &'static str,
    /// The page and heading below `docs` with more.
    pub(crate) page: &'static str,
    /// The reason of threshold and time.
    pub(crate) reason: &'static str,
    /// Series of the unit test, with further labels than those of every series, and values a minute apart: first those
    /// under which the alert fires, then those under which it must not.
    pub(crate) fires: &'static [(&'static str, &'static str)],
    pub(crate) rests: &'static [(&'static str, &'static str)],
    /// The labels of the alert that fires, beside job, instance and severity.
    pub(crate) labels: &'static [(&'static str, &'static str)],
}

/// Every alert, the worst first.
pub(crate) const ALERTS: &[Alert] = &[
    Alert {
        name: "HoldfastItemsDropped",
        severity: Severity::Critical,
        expr: "sum by (job, instance, signal, reason) (increase({items.dropped}[10m])) > 0",
        lasts: "0m",
        summary: "{{ $labels.instance }} has dropped {{ $labels.signal }} ({{ $labels.reason }})",
        description: "Accepted items were given up and are lost. GET /telemetry-test/health has the cause and the \
                      remedy: a missing or full file fallback, a full disk, limits that are too small, or too little \
                      time for the shutdown.",
        page: "health.md#the-status",
        reason: "A loss cannot be undone, so the first one fires. The window keeps the alert for 10 minutes, so that \
                 one loss makes one alert. No reason is left out: none of them follows from a policy that was set to \
                 lose items. A loss after the last scrape of a program that ends is in its log alone, and one before \
                 the first scrape of a new instance in HoldfastUnhealthy.",
        fires: &[("items.dropped|reason=\"buffer_full\",signal=\"traces\"", "0x10 5x5")],
        rests: &[("items.dropped|reason=\"buffer_full\",signal=\"traces\"", "5x20")],
        labels: &[("reason", "buffer_full"), ("signal", "traces")],
    },
    Alert {
        name: "HoldfastItemsRefused",
        severity: Severity::Critical,
        expr: "sum by (job, instance, signal, reason) (increase({items.refused|reason!=\"already_shutdown\"}[10m])) > 0",
        lasts: "0m",
        summary: "{{ $labels.instance }} has not accepted {{ $labels.signal }} ({{ $labels.reason }})",
        description: "Items were offered and never accepted: they are lost. larger_than_buffer: raise the bytes of \
                      the buffer, or put less into one item. encode_panicked: report the fault. forked: set telemetry \
                      up after the fork, once in each process.",
        page: "health.md#the-status",
        reason: "As above. `already_shutdown` is left out: a program that ends makes items after its exporter's end, \
                 and its next start would find an alert that calls for no action.",
        fires: &[("items.refused|reason=\"larger_than_buffer\",signal=\"traces\"", "0x10 1x5")],
        rests: &[("items.refused|reason=\"already_shutdown\",signal=\"traces\"", "0x10 9x5")],
        labels: &[("reason", "larger_than_buffer"), ("signal", "traces")],
    },
    Alert {
        name: "HoldfastDeadLettersEvicted",
        severity: Severity::Critical,
        expr: "sum by (job, instance, signal) (increase({dead_letters.evicted}[10m])) > 0",
        lasts: "0m",
        summary: "{{ $labels.instance }} has removed dead letters to keep their limits",
        description: "Dead letters were removed and are lost. Redrive or remove letters, raise \
                      TELEMETRY_DEAD_LETTER_MAX_BYTES, or free disk space.",
        page: "storage.md#dead-letters",
        reason: "A loss cannot be undone, so the first one fires.",
        fires: &[("dead_letters.evicted|signal=\"traces\"", "0x10 20x5")],
        rests: &[("dead_letters.evicted|signal=\"traces\"", "20x20")],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastLedgerImbalance",
        severity: Severity::Critical,
        expr: "max by (job, instance, signal) (abs({ledger.imbalance})) > 0",
        lasts: "2m",
        summary: "The ledger of {{ $labels.instance }} does not add up",
        description: "Items came in that are counted at no place. This is a fault of the exporter: report it with the \
                      page of metrics and the log. Restart the program to begin with a new ledger.",
        page: "architecture.md#the-ledger",
        reason: "Each page is one consistent snapshot, in which 0 is the only right number. Two scrapes leave out one \
                 that a proxy mixed up.",
        fires: &[("ledger.imbalance|signal=\"traces\"", "0x5 -3x15")],
        rests: &[("ledger.imbalance|signal=\"traces\"", "0x20")],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastUnhealthy",
        severity: Severity::Critical,
        expr: "max by (job, instance) ({health.status|status=\"unhealthy\"}) == 1",
        lasts: "1m",
        summary: "The telemetry of {{ $labels.instance }} is unhealthy",
        description: "Items were lost within 5 minutes, or the set-up of telemetry failed and it is off. GET \
                      /telemetry-test/health names the cause and the remedy.",
        page: "health.md#the-status",
        reason: "Unhealthy means losses within 5 minutes already; one scrape of patience joins this alert with the \
                 one that names the reason.",
        fires: &[("health.status|status=\"unhealthy\"", "0x5 1x15")],
        rests: &[("health.status|status=\"degraded\"", "1x20"), ("health.status|status=\"unhealthy\"", "0x20")],
        labels: &[],
    },
    Alert {
        name: "HoldfastNothingDelivered",
        severity: Severity::Critical,
        expr: "sum by (job, instance, signal) ({items.staged} + {items.buffered} + {items.in_flight} + {items.in_fallback} + \
               {items.in_journal}) > 0 and sum by (job, instance, signal) (increase({items.delivered}[10m])) == 0",
        lasts: "10m",
        summary: "{{ $labels.instance }} delivers nothing while {{ $labels.signal }} wait",
        description: "No collector has taken an item for 20 minutes although items wait. They are kept up to the \
                      limits of memory and files, and are lost beyond these. See which endpoint is down or refuses, \
                      and repair the collector or the settings.",
        page: "health.md#the-status",
        reason: "The longest wait without a fault is a pause of 5 minutes that a collector asks for. Twice that in \
                 the window, and 10 minutes more, so that a roll-out of a collector makes no alert.",
        fires: &[
            ("items.staged|signal=\"traces\"", "0x30"),
            ("items.buffered|signal=\"traces\"", "7x30"),
            ("items.in_flight|signal=\"traces\"", "0x30"),
            ("items.in_fallback|signal=\"traces\"", "0x30"),
            ("items.in_journal|signal=\"traces\"", "0x30"),
            ("items.delivered|signal=\"traces\"", "90x30"),
        ],
        rests: &[
            ("items.staged|signal=\"traces\"", "0x30"),
            ("items.buffered|signal=\"traces\"", "7x30"),
            ("items.in_flight|signal=\"traces\"", "0x30"),
            ("items.in_fallback|signal=\"traces\"", "0x30"),
            ("items.in_journal|signal=\"traces\"", "0x30"),
            ("items.delivered|signal=\"traces\"", "90+1x30"),
        ],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastOff",
        severity: Severity::Warning,
        expr: "max by (job, instance) ({exporter.up}) == 0",
        lasts: "5m",
        summary: "{{ $labels.instance }} exports no telemetry",
        description: "Telemetry is disabled, set not to export, failed to start, or was shut down while the program \
                      goes on. GET /telemetry-test/health says which. If it is off on purpose, silence this alert.",
        page: "health.md#the-status",
        reason: "A program that ends is down within a minute; 5 minutes mean one that stays without telemetry.",
        fires: &[("exporter.up", "1x5 0x15")],
        rests: &[("exporter.up", "1x20")],
        labels: &[],
    },
    Alert {
        name: "HoldfastBreakerOpen",
        severity: Severity::Warning,
        expr: "max by (job, instance, endpoint) ({breaker.state|state=~\"open|half_open|isolated\"}) == 1",
        lasts: "10m",
        summary: "The circuit breaker of endpoint {{ $labels.endpoint }} of {{ $labels.instance }} stays open",
        description: "The endpoint has failed call after call. Items wait in memory and files, and are lost beyond \
                      their limits. Start the collector, or check host, port and network.",
        page: "health.md#outages",
        reason: "A restart or a roll-out of a collector takes less. The probes of an outage make the breaker half-open \
                 for moments, which must not begin the 10 minutes anew.",
        fires: &[
            ("breaker.state|endpoint=\"primary\",state=\"open\"", "1x10 0 1x15"),
            ("breaker.state|endpoint=\"primary\",state=\"half_open\"", "0x10 1 0x15"),
        ],
        rests: &[("breaker.state|endpoint=\"primary\",state=\"closed\"", "1x25")],
        labels: &[("endpoint", "primary")],
    },
    Alert {
        name: "HoldfastEndpointRefusing",
        severity: Severity::Warning,
        expr: "max by (job, instance, endpoint) ({endpoint.refusing}) == 1",
        lasts: "10m",
        summary: "Endpoint {{ $labels.endpoint }} of {{ $labels.instance }} refuses all that it is sent",
        description: "The endpoint answers and takes nothing: an expired token, a wrong path, a wrong tenant. GET \
                      /telemetry-test/health has its answer and the remedy. Items wait, and are sent once it accepts.",
        page: "otlp.md#use",
        reason: "A token that is renewed late, or a gateway that is being set up, takes less.",
        fires: &[("endpoint.refusing|endpoint=\"primary\"", "1x20")],
        rests: &[("endpoint.refusing|endpoint=\"primary\"", "1x5 0x2 1x9")],
        labels: &[("endpoint", "primary")],
    },
    Alert {
        name: "HoldfastStorageFullSoon",
        severity: Severity::Warning,
        expr: "min by (job, instance) ({fallback.full_in}) < 4 * 3600",
        lasts: "5m",
        summary: "The fallback files of {{ $labels.instance }} are full within 4 hours",
        description: "At the present rate the oldest files must be removed soon, which loses their items. Repair the \
                      collector, raise TELEMETRY_FALLBACK_MAX_BYTES, or free disk space.",
        page: "storage.md#use",
        reason: "4 hours are time to act in. The forecast is of the last 10 minutes and jumps with the first file of \
                 an outage; 5 minutes leave that out.",
        fires: &[("fallback.full_in", "_x5 7200-60x15")],
        rests: &[("fallback.full_in", "90000x20")],
        labels: &[],
    },
    Alert {
        name: "HoldfastStorageNearlyFull",
        severity: Severity::Warning,
        expr: "max by (job, instance) ({fallback.size} / {fallback.max_size}) > 0.8 or max by (job, instance) \
               ({dead_letters.size} / {dead_letters.max_size}) > 0.8",
        lasts: "5m",
        summary: "The files or the dead letters of {{ $labels.instance }} take 80 % of their limit",
        description: "At the limit the oldest are removed and lost. Repair the collector; redrive or remove dead \
                      letters; raise TELEMETRY_FALLBACK_MAX_BYTES or TELEMETRY_DEAD_LETTER_MAX_BYTES.",
        page: "storage.md#use",
        reason: "The forecast sees no storage that fills over days; a fifth of the limit is left then.",
        fires: &[("fallback.size", "95x15"), ("fallback.max_size", "100x15")],
        rests: &[
            ("fallback.size", "80x15"),
            ("fallback.max_size", "100x15"),
            ("dead_letters.size", "0x15"),
            ("dead_letters.max_size", "0x15"),
        ],
        labels: &[],
    },
    Alert {
        name: "HoldfastBufferNearlyFull",
        severity: Severity::Warning,
        expr: "max by (job, instance) ({buffer.held_size} / ({buffer.max_size} > 0)) > 0.8 or max by (job, instance) \
               ({buffer.held_items} / ({buffer.max_items} > 0)) > 0.8",
        lasts: "5m",
        summary: "The memory for telemetry of {{ $labels.instance }} is filled above 80 %",
        description: "Beyond the limit items go to files, or are dropped without a fallback. Repair the collector, \
                      enable the file fallback, or raise TELEMETRY_BUFFER_MAX_BYTES and TELEMETRY_BUFFER_MAX_SPANS.",
        page: "storage.md#memory-the-buffer",
        reason: "As health, which is degraded above 80 %. With a fallback the surplus is on disk long before 5 minutes \
                 are over, so that the alert means a fallback that is missing or too slow.",
        fires: &[("buffer.held_size", "90x15"), ("buffer.max_size", "100x15")],
        rests: &[
            ("buffer.held_size", "80x15"),
            ("buffer.max_size", "100x15"),
            ("buffer.held_items|signal=\"traces\"", "90x15"),
            ("buffer.max_items|signal=\"traces\"", "0x15"),
        ],
        labels: &[],
    },
    Alert {
        name: "HoldfastDeadLetters",
        severity: Severity::Warning,
        expr: "sum by (job, instance, signal) (increase({items.dead_lettered}[10m])) > 0",
        lasts: "0m",
        summary: "{{ $labels.instance }} has stored dead letters",
        description: "A collector refuses items for good, which are kept and not sent again by themselves. Read one \
                      with its reason by GET /telemetry-test/dead-letters, mend the cause, and redrive them.",
        page: "storage.md#dead-letters",
        reason: "Each needs a decision by a person, and none goes away by itself; nothing is lost meanwhile.",
        fires: &[("items.dead_lettered|signal=\"traces\"", "0x10 40x5")],
        rests: &[("items.dead_lettered|signal=\"traces\"", "40x20")],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastItemsRejected",
        severity: Severity::Warning,
        expr: "sum by (job, instance, signal) (increase({items.rejected}[10m])) > 0",
        lasts: "0m",
        summary: "The collector rejects some {{ $labels.signal }} of {{ $labels.instance }}",
        description: "The collector took requests and rejected a part of their items: these are gone, and neither sent \
                      again nor kept as dead letters. The log has the collector's message; mend the cause that it \
                      names, such as attributes or times that the collector does not accept.",
        page: "otlp.md#use",
        reason: "A rejected item is gone, as a dropped one, yet by the collector's own decision, which may be a policy: \
                 a warning. No other alert sees it, as these calls succeed.",
        fires: &[("items.rejected|signal=\"traces\"", "0x10 2x5")],
        rests: &[("items.rejected|signal=\"traces\"", "2x20")],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastNotDurable",
        severity: Severity::Warning,
        expr: "sum by (job, instance, signal) (increase({items.accepted_not_durable}[10m])) > 0",
        lasts: "0m",
        summary: "{{ $labels.instance }} accepts {{ $labels.signal }} before they are durable",
        description: "In durable mode these items would be lost by a crash. Use a faster disk for the state directory, \
                      raise TELEMETRY_JOURNAL_SYNC_TIMEOUT or TELEMETRY_JOURNAL_MAX_BYTES, or end the trouble of the \
                      journal that the log names.",
        page: "journal.md#use",
        reason: "Durable mode was chosen so that this does not happen; the first item fires.",
        fires: &[("items.accepted_not_durable|signal=\"traces\"", "0x10 3x5")],
        rests: &[("items.accepted_not_durable|signal=\"traces\"", "3x20")],
        labels: &[("signal", "traces")],
    },
    Alert {
        name: "HoldfastFilesSetAside",
        severity: Severity::Warning,
        expr: "max by (job, instance) ({set_aside.files}) > 0",
        lasts: "5m",
        summary: "Damaged files of {{ $labels.instance }} wait in quarantine",
        description: "Records of these files could not be read; the readable part was sent. Check the disk, look at \
                      the files, and remove them.",
        page: "storage.md#the-cost-of-damage",
        reason: "Quarantine is for people. 5 minutes leave out a file that is set aside and removed in one go.",
        fires: &[("set_aside.files", "1x15")],
        rests: &[("set_aside.files", "0x15")],
        labels: &[],
    },
];
