//! Progress on stderr, where that is a terminal; else nothing.

use std::{io::IsTerminal, time::Duration};

use ds_domain::api::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `total` bytes.
pub(crate) fn bytes(total: u64, what: &str) -> ProgressBar {
    on_terminal(ProgressBar::new(total)).with_message(what.to_owned()).with_style(of_total())
}

/// A bar over bytes that are under way already, of which the total becomes known later, or never.
pub(crate) fn transfer(what: String, now: Progress) -> ProgressBar {
    let bar = on_terminal(ProgressBar::no_length()).with_message(what).with_style(of_unknown());
    advance(&bar, now);
    // What has moved before says nothing about the rate.
    bar.reset_eta();
    bar
}

/// Moves a bar of [`transfer`].
pub(crate) fn advance(bar: &ProgressBar, now: Progress) {
    if bar.length() != now.total_bytes {
        bar.set_style(now.total_bytes.map_or_else(of_unknown, |_| of_total()));
        match now.total_bytes {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
    }
    bar.set_position(now.done_bytes);
}

fn of_unknown() -> ProgressStyle {
    style("{spinner} {msg}: {binary_bytes}, {binary_bytes_per_sec}")
}

fn of_total() -> ProgressStyle {
    style("{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left")
        .progress_chars("=> ")
}

/// Whether a person sees bars: else lines have to do.
pub(crate) fn is_seen() -> bool {
    std::io::stderr().is_terminal()
}

/// A line that shows that something is waited for.
pub(crate) fn waiting(what: String) -> ProgressBar {
    let bar = on_terminal(ProgressBar::new_spinner()).with_message(what).with_style(style("{spinner} {msg}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn on_terminal(bar: ProgressBar) -> ProgressBar {
    if !is_seen() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are valid")
}
