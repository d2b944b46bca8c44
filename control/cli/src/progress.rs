//! Progress on stderr, where that is a terminal; else nothing.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `total` bytes.
pub(crate) fn bytes(total: u64, what: &str) -> ProgressBar {
    let bar = on_terminal(ProgressBar::new(total)).with_message(what.to_owned());
    bar.with_style(
        style("{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left")
            .progress_chars("=> "),
    )
}

/// A line that shows that something is waited for.
pub(crate) fn waiting(what: String) -> ProgressBar {
    let bar = on_terminal(ProgressBar::new_spinner()).with_message(what).with_style(style("{spinner} {msg}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn on_terminal(bar: ProgressBar) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are valid")
}
