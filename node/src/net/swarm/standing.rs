//! What each peer has cost us, and how much it may still ask.
//!
//! Points are taken for misbehaviour and fade with time; whoever reaches the threshold is banned. Token
//! buckets bound how often a peer may ask and announce. Both outlive a connection, so that reconnecting
//! clears nothing.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// Half of a peer's points are gone after this time.
const HALF_LIFE: Duration = Duration::from_mins(10);
/// Peers remembered. Beyond it the ones with the fewest points are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// A token bucket: at most `burst` at once, refilled at `rate` per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: f64,
    /// Tokens that can be saved up.
    pub burst: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        self.tokens = (self.tokens + gained).min(rate.burst);
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[derive(Debug)]
struct Standing {
    points: f64,
    at: Instant,
    requests: Bucket,
    announcements: Bucket,
}

impl Standing {
    fn faded(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        self.points * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

/// The standings of all peers seen lately.
#[derive(Debug)]
pub(super) struct Standings {
    peers: HashMap<PeerId, Standing>,
    requests: Rate,
    announcements: Rate,
}

impl Standings {
    pub(super) fn new(requests: Rate, announcements: Rate) -> Self {
        Self { peers: HashMap::new(), requests, announcements }
    }

    /// Adds `points` to what `peer` has cost and returns its total.
    pub(super) fn charge(&mut self, peer: PeerId, points: f64, now: Instant) -> f64 {
        let standing = self.entry(peer, now);
        standing.points = standing.faded(now) + points.max(0.0);
        standing.at = now;
        standing.points
    }

    /// What `peer` has cost, faded to `now`.
    pub(super) fn points(&self, peer: &PeerId, now: Instant) -> f64 {
        self.peers.get(peer).map_or(0.0, |standing| standing.faded(now))
    }

    /// Forgets what `peer` has cost.
    pub(super) fn forgive(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Takes one token for a request; `false` when there is none left.
    pub(super) fn may_request(&mut self, peer: PeerId, now: Instant) -> bool {
        let rate = self.requests;
        self.entry(peer, now).requests.take(rate, now)
    }

    /// Takes one token for an announcement; `false` when there is none left.
    pub(super) fn may_announce(&mut self, peer: PeerId, now: Instant) -> bool {
        let rate = self.announcements;
        self.entry(peer, now).announcements.take(rate, now)
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> &mut Standing {
        if self.peers.len() >= MAX_REMEMBERED && !self.peers.contains_key(&peer) {
            self.make_room(now);
        }
        let (requests, announcements) = (self.requests, self.announcements);
        self.peers.entry(peer).or_insert_with(|| Standing {
            points: 0.0,
            at: now,
            requests: Bucket { tokens: requests.burst, at: now },
            announcements: Bucket { tokens: announcements.burst, at: now },
        })
    }

    /// Forgets the half with the fewest points, so that the work is paid once per many newcomers.
    fn make_room(&mut self, now: Instant) {
        let mut by_points: Vec<_> = self.peers.iter().map(|(peer, s)| (s.faded(now), *peer)).collect();
        by_points.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, peer) in by_points.iter().take(MAX_REMEMBERED / 2) {
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 5.0 };

    #[test]
    fn points_add_up_and_fade() {
        let (mut standings, peer, now) = (Standings::new(RATE, RATE), PeerId::random(), Instant::now());
        assert!((standings.charge(peer, 40.0, now) - 40.0).abs() < 1e-9);
        assert!((standings.charge(peer, 40.0, now) - 80.0).abs() < 1e-9);
        assert!((standings.points(&peer, now + HALF_LIFE) - 40.0).abs() < 1e-9);
        assert!((standings.charge(peer, 10.0, now + HALF_LIFE) - 50.0).abs() < 1e-9);
        standings.forgive(&peer);
        assert!(standings.points(&peer, now) == 0.0);
    }

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let (mut standings, peer, now) = (Standings::new(RATE, RATE), PeerId::random(), Instant::now());
        assert_eq!((0..20).filter(|_| standings.may_request(peer, now)).count(), 5);
        let later = now + Duration::from_millis(250);
        assert_eq!((0..20).filter(|_| standings.may_request(peer, later)).count(), 2);
        assert!(standings.may_announce(peer, now), "announcements have their own bucket");
        let much_later = now + Duration::from_hours(1);
        assert_eq!((0..20).filter(|_| standings.may_request(peer, much_later)).count(), 5);
    }

    #[test]
    fn a_flood_of_newcomers_does_not_push_out_the_worst() {
        let (mut standings, worst, now) = (Standings::new(RATE, RATE), PeerId::random(), Instant::now());
        standings.charge(worst, 90.0, now);
        for _ in 0..2 * MAX_REMEMBERED {
            standings.charge(PeerId::random(), 1.0, now);
        }
        assert!(standings.peers.len() <= MAX_REMEMBERED);
        assert!((standings.points(&worst, now) - 90.0).abs() < 1e-9);
    }
}
