//! Numbers that cannot be negative, infinite or NaN, since one such number spoils a scheduler's whole score.

/// A finite number that is not negative: cores, a load average, a ratio.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Amount(f64);

impl Amount {
    /// The number, or nothing when it is negative, infinite or NaN.
    pub fn new(value: f64) -> Option<Self> {
        // `+ 0.0` turns the negative zero into zero.
        (value.is_finite() && value >= 0.0).then_some(Self(value + 0.0))
    }

    /// A count.
    pub fn count(value: u32) -> Self {
        Self(f64::from(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The smaller of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }
}

/// A share of a whole, from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Percent(f64);

impl Percent {
    /// `part` of `whole`; more than the whole is 100. Nothing when the whole is zero.
    pub fn of(part: f64, whole: f64) -> Option<Self> {
        let share = part / whole * 100.0;
        (whole > 0.0 && share.is_finite()).then_some(Self(share.clamp(0.0, 100.0) + 0.0))
    }

    /// [`Percent::of`] for byte counts.
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs far less than 52 bits")]
    pub fn of_bytes(part: u64, whole: u64) -> Option<Self> {
        Self::of(part as f64, whole as f64)
    }

    /// The number, from 0 to 100.
    pub fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hold_no_nonsense(a in proptest::num::f64::ANY, b in proptest::num::f64::ANY) {
            if let Some(amount) = Amount::new(a) {
                prop_assert!(amount.get().is_finite() && amount.get() >= 0.0);
            }
            if let Some(percent) = Percent::of(a, b) {
                prop_assert!((0.0..=100.0).contains(&percent.get()), "{}", percent.get());
            }
        }
    }

    #[test]
    fn a_share_of_nothing_is_absent() {
        assert_eq!(Percent::of_bytes(1, 0), None);
        assert_eq!(Percent::of_bytes(1, 4).map(Percent::get), Some(25.0));
        assert_eq!(Percent::of_bytes(9, 4).map(Percent::get), Some(100.0));
    }
}
