//! The older Prometheus text format, for readers that do not ask for
//! OpenMetrics (`promtool check metrics`, `curl`).
//!
//! The samples are the same in both. In OpenMetrics a counter's or an info's
//! header names the family, without the suffix of its samples; in the older
//! format it names the samples, and there are no infos and no `# EOF`.

/// Rewrites the headers of an OpenMetrics text.
pub(super) fn from_openmetrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1024);
    // The header that a family begins with comes before the one with its kind.
    let mut help = None;
    for line in text.split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.trim_end().split_once(' ').unwrap_or((rest, ""));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                for part in ["# HELP ", name, suffix, " ", help] {
                    out.push_str(part);
                }
            }
            for part in ["# TYPE ", name, suffix, " ", kind, "\n"] {
                out.push_str(part);
            }
        } else if !line.starts_with('#') {
            out.push_str(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_take_the_suffix_of_their_samples() {
        let openmetrics = "\
# HELP a_bytes What a is.
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{x=\"# TYPE b\"} 1
# HELP b Info.
# TYPE b info
b_info{v=\"1\"} 1
# HELP c A gauge.
# TYPE c gauge
c 2
# EOF
";
        let classic = "\
# HELP a_bytes_total What a is.
# TYPE a_bytes_total counter
a_bytes_total{x=\"# TYPE b\"} 1
# HELP b_info Info.
# TYPE b_info gauge
b_info{v=\"1\"} 1
# HELP c A gauge.
# TYPE c gauge
c 2
";
        assert_eq!(from_openmetrics(openmetrics), classic);
    }
}
