//! The lines of a page that a person types: those of its `sh` blocks, in the order of the page.

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `docker compose up -d otel-collector`, or `start`.
    StartCollector,
    /// `docker compose stop otel-collector`.
    StopCollector,
    /// `holdfast serve`, with variables in front of it.
    Serve,
    Curl(Curl),
}

/// `curl .. # STATUS`, or `# STATUS WORD`: the answer has that status, and, maybe after some time, that word as its
/// `status` or `state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Curl {
    pub(super) command: String,
    pub(super) status: u16,
    pub(super) word: Option<String>,
}

/// The lines below a heading, to the next one.
pub(super) fn lines(page: &str, heading: &str) -> Result<Vec<Line>, String> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).ok_or_else(|| format!("there is no {heading:?}"))?;
    let (mut lines, mut in_block) = (Vec::new(), false);
    for text in section.lines() {
        match text {
            "```sh" => in_block = true,
            "```" => in_block = false,
            _ if in_block => lines.push(line(text).ok_or_else(|| format!("not understood: {text}"))?),
            // A comment of a shell is no heading.
            _ if text.starts_with('#') => break,
            _ => {}
        }
    }
    Ok(lines)
}

fn line(text: &str) -> Option<Line> {
    let text = text.trim();
    if let Some(compose) = text.strip_prefix("docker compose ") {
        return match compose {
            "up -d otel-collector" | "start otel-collector" => Some(Line::StartCollector),
            "stop otel-collector" => Some(Line::StopCollector),
            _ => None,
        };
    }
    if text.starts_with("curl ") {
        let (command, comment) = text.rsplit_once(" # ")?;
        let mut words = comment.split_whitespace();
        let (status, word) = (words.next()?.parse().ok()?, words.next().map(str::to_owned));
        return words.next().is_none().then(|| Line::Curl(Curl { command: command.to_owned(), status, word }));
    }
    text.ends_with("holdfast serve &").then_some(Line::Serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_one_section_are_read_in_their_order() {
        let page = "# Page\n## One\n```sh\ncurl a # 200\n```\n## Two\nText\n```sh\ndocker compose up -d otel-collector\n\
                    A=b holdfast serve &\ncurl -s b # 202 completed\n```\nMore\n```sh\ndocker compose stop otel-collector\n\
                    ```\n## Three\n```sh\ncurl c # 200\n```\n";
        let curl = Curl { command: "curl -s b".into(), status: 202, word: Some("completed".into()) };
        let expected = [Line::StartCollector, Line::Serve, Line::Curl(curl), Line::StopCollector];
        assert_eq!(lines(page, "## Two").expect("read"), expected);
        assert!(lines(page, "## Four").is_err());
    }

    #[test]
    fn a_line_that_the_lane_cannot_play_is_a_fault() {
        for text in ["rm -rf x", "curl a", "curl a # ok", "docker compose down", "curl a # 200 a b"] {
            assert_eq!(line(text), None, "{text}");
        }
    }
}
