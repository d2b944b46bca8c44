//! How much a QUIC connection has under way: CUBIC on near paths, and on long ones a model of the path ([`model`]), which
//! random loss does not slow.
//!
//! Near, a connection is limited by cores: CUBIC costs less there, and loses little.

mod model;
#[cfg(test)]
mod simulation;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, Cubic, CubicConfig},
};

use self::model::Model;

/// From which round trip on a path is long. Shorter ones are the kernel's and the threads' delays as much as the path's.
pub const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);
/// What a long path is sent before anything is known of it, packets. RFC 9002 has 10; each doubling costs a round trip, and
/// these are paced.
const FIRST_PACKETS: u64 = 32;

/// Makes a [`ByDistance`] for each path.
#[derive(Debug)]
pub(crate) struct ByDistanceConfig {
    /// Packets after which the far end acknowledges at the latest.
    pub(crate) ack_threshold: u32,
}

impl ControllerFactory for ByDistanceConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let near = Cubic::new(Arc::new(CubicConfig::default()), now, mtu);
        let packet = u64::from(mtu);
        let far = Model::new(now, packet, self.ack_threshold.into(), FIRST_PACKETS * packet);
        Box::new(ByDistance { near, far, is_far: false, srtt: Duration::ZERO })
    }
}

/// The one of two that fits the path, by its shortest round trip so far.
#[derive(Debug, Clone)]
struct ByDistance {
    near: Cubic,
    far: Model,
    is_far: bool,
    srtt: Duration,
}

impl Controller for ByDistance {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if self.is_far {
            self.far.on_sent(now, bytes);
        } else {
            self.near.on_sent(now, bytes, last_packet_number);
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        // Told before the round trip of these packets is part of `rtt`, so the first of a connection does not count.
        self.is_far = rtt.min().min(now - sent) >= LONG_ROUND_TRIP;
        self.srtt = rtt.get();
        if self.is_far {
            self.far.on_ack(sent, bytes);
        } else {
            self.near.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if self.is_far {
            self.far.on_acks_end(now, in_flight, app_limited, self.srtt);
        } else {
            self.near.on_end_acks(now, in_flight, app_limited, largest);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        if !self.is_far {
            self.near.on_congestion_event(now, sent, persistent, lost_bytes);
        } else if lost_bytes == 0 {
            self.far.on_marked();
        } else {
            self.far.on_lost(now, lost_bytes, persistent);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.near.on_mtu_update(mtu);
        self.far.resize(mtu.into());
    }

    fn window(&self) -> u64 {
        if self.is_far { self.far.window() } else { self.near.window() }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.near.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
