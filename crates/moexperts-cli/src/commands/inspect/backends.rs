//! Which experts each backend runs.

use moexperts::{AnyDevice, inspect};
use moexperts_bench::on_device;

/// A line a property, a column a backend.
pub(super) fn support(device: &AnyDevice) -> String {
    let backends = on_device!(device, device => inspect::backend_support(device));
    let properties: Vec<&str> = match backends.first() {
        Some(first) => first.properties.iter().map(|(property, _)| *property).collect(),
        None => Vec::new(),
    };
    let width = properties.iter().map(|property| property.len()).max().unwrap_or(0);
    let row = |property: &str, answers: Vec<String>| -> String {
        let line = format!("  {property:width$}  {}", answers.join("  "));
        format!("{}\n", line.trim_end())
    };
    let mut lines = row("", backends.iter().map(|support| support.backend.clone()).collect());
    for (index, property) in properties.into_iter().enumerate() {
        let answers = backends.iter().map(|support| {
            let (_, runs) = support.properties[index];
            let answer = if runs { "yes" } else { "-" };
            format!("{answer:width$}", width = support.backend.len())
        });
        lines += &row(property, answers.collect());
    }
    lines
}
