//! What happens at each point. Pure.

use std::{fmt, time::Duration};

use ds_link::{Transport, Transports};
use ds_tests::{Dice, Weather, mover::Way};

const MIB: u64 = 1 << 20;

/// One transfer and what befalls it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) way: Way,
    pub(crate) over: Transports,
    pub(crate) fault: Fault,
    pub(crate) moment: Moment,
    /// Bytes that the snapshot brings, about.
    pub(crate) bytes: u64,
    /// Whether the volume is a new one.
    pub(crate) volume: VolumeIs,
    /// For all else that is left to chance.
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeIs {
    /// Its first push is a full stream.
    New,
    /// With snapshots that both ends have.
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The end that dials: the sender of a push, the receiver of a pull.
    KillClient,
    /// The receiver of a push, the sender of a pull. It comes back after the pause.
    KillStore(Duration),
    KillBoth,
    /// The store, so long after it was asked to make the pushed snapshot the newest of the main line.
    KillAdvance(Duration),
    /// The path forgets the flows that it carried.
    ForgetFlows,
    /// The path takes what comes on the flows that it carried, and lets nothing out.
    SwallowFlows,
    /// Nothing arrives for a while.
    Silence(Duration),
    /// From the beginning to the end.
    Storm(Weather),
    /// The receiver's disk is full at once.
    FillDisk,
}

impl Fault {
    /// Whether it befalls the transfer itself.
    pub(crate) fn is_of_a_transfer(self) -> bool {
        !matches!(self, Self::KillAdvance(_))
    }
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long after the start.
    After(Duration),
    /// When so much is written at the receiver.
    Written(u64),
}

/// Each kind of fault as often as it is here.
#[derive(Debug, Clone, Copy)]
enum Card {
    KillClient,
    KillStore,
    KillBoth,
    KillAdvance,
    ForgetFlows,
    Silence,
    Lossy,
    Unordered,
    Damaging,
    Slow,
    Hurricane,
    FillDisk,
}

const DECK: [Card; 17] = [
    Card::KillClient,
    Card::KillClient,
    Card::KillStore,
    Card::KillStore,
    Card::KillStore,
    Card::KillBoth,
    Card::KillAdvance,
    Card::ForgetFlows,
    Card::Silence,
    Card::Silence,
    Card::Lossy,
    Card::Unordered,
    Card::Damaging,
    Card::Slow,
    Card::Hurricane,
    Card::FillDisk,
    Card::FillDisk,
];

const OVER: [Transports; 4] =
    [Transports::Auto, Transports::Auto, Transports::Only(Transport::Quic), Transports::Only(Transport::Tcp)];

/// Without end.
#[derive(Debug)]
pub(crate) struct Plans {
    dice: Dice,
    deck: Vec<(Card, Way)>,
    percent: u64,
    first: bool,
}

impl Plans {
    pub(crate) fn new(seed: u64, percent: u64) -> Self {
        Self { dice: Dice::new(seed), deck: Vec::new(), percent, first: true }
    }

    pub(crate) fn next(&mut self) -> Plan {
        if self.deck.is_empty() {
            self.deck = DECK.into_iter().flat_map(|card| [(card, Way::Push), (card, Way::Pull)]).collect();
            self.dice.shuffle(&mut self.deck);
        }
        let (card, way) = self.deck.pop().expect("it is filled above");
        let dice = &mut self.dice;
        let bytes = self.percent * size(card, dice) / 100;
        let new = std::mem::take(&mut self.first) || dice.below(6) == 0;
        Plan {
            way,
            over: *dice.one_of(&OVER),
            fault: fault(card, dice),
            moment: moment(card, bytes, dice),
            bytes,
            volume: if new { VolumeIs::New } else { VolumeIs::Known },
            seed: dice.any(),
        }
    }
}

fn size(card: Card, dice: &mut Dice) -> u64 {
    match card {
        // More than a window, so that sending all of it again would show.
        Card::ForgetFlows => 80 * MIB + dice.below(40 * MIB),
        Card::Lossy | Card::Slow | Card::Hurricane => 2 * MIB + dice.below(6 * MIB),
        Card::FillDisk => 12 * MIB + dice.below(12 * MIB),
        _ if dice.below(8) == 0 => dice.below(64 << 10),
        _ => MIB + dice.below(24 * MIB),
    }
}

fn fault(card: Card, dice: &mut Dice) -> Fault {
    let mut ms = |limit| Duration::from_millis(dice.below(limit));
    match card {
        Card::KillClient => Fault::KillClient,
        Card::KillStore => Fault::KillStore(ms(1500)),
        Card::KillBoth => Fault::KillBoth,
        Card::KillAdvance => Fault::KillAdvance(ms(300)),
        Card::ForgetFlows => Fault::ForgetFlows,
        Card::Silence => Fault::Silence(Duration::from_millis(200) + ms(4000)),
        Card::Lossy => Fault::Storm(Weather { lost: 10, ..Weather::CLEAR }),
        Card::Unordered => Fault::Storm(Weather { doubled: 20, late: 20, ..Weather::CLEAR }),
        Card::Damaging => Fault::Storm(Weather { damaged: 5, ..Weather::CLEAR }),
        Card::Slow => Fault::Storm(Weather { delay: Duration::from_millis(10) + ms(60), ..Weather::CLEAR }),
        Card::Hurricane => Fault::Storm(Weather {
            lost: 5,
            doubled: 10,
            late: 10,
            damaged: 5,
            delay: Duration::from_millis(5) + ms(15),
        }),
        Card::FillDisk => Fault::FillDisk,
    }
}

fn moment(card: Card, bytes: u64, dice: &mut Dice) -> Moment {
    match card {
        Card::Lossy | Card::Unordered | Card::Damaging | Card::Slow | Card::Hurricane => {
            Moment::After(Duration::ZERO)
        }
        // Before it has begun there is nothing that could go on; and what is left must not fit into what is under way.
        Card::ForgetFlows => Moment::Written(bytes / 16 + dice.below(bytes / 8)),
        _ if dice.below(3) == 0 => Moment::After(Duration::from_millis(dice.below(500))),
        _ => Moment::Written(dice.below(bytes.max(1))),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let volume = if self.volume == VolumeIs::New { " of a new volume" } else { "" };
        let Self { way, over, fault, moment, .. } = self;
        write!(f, "{way:?} ({over}) of {} KiB{volume}, {fault:?} {moment:?}", self.bytes >> 10)
    }
}

#[test]
fn equal_seeds_give_equal_plans_and_every_fault_comes() {
    let take = |seed| {
        let mut plans = Plans::new(seed, 100);
        (0..64).map(|_| plans.next().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(take(5), take(5));
    assert_ne!(take(5), take(6));
    for fault in
        ["KillClient", "KillStore", "KillBoth", "KillAdvance", "Forget", "Silence", "Storm", "FillDisk"]
    {
        assert!(take(5).iter().any(|plan| plan.contains(fault)), "{fault}");
    }
}
