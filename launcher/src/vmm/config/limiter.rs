//! Limiters of disks and NICs, for cloud-hypervisor's API: buckets of tokens that are filled again and again.

use serde::Serialize;

use crate::spec::Rate;

/// How often a bucket is filled, in milliseconds: a device that has used up its bucket stands still for no longer than this.
const REFILL: u64 = 100;
const SECOND: u64 = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RateLimiterConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<TokenBucketConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<TokenBucketConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TokenBucketConfig {
    size: u64,
    /// Milliseconds.
    refill_time: u64,
}

impl RateLimiterConfig {
    pub(crate) fn new(rate: &Rate) -> Self {
        Self {
            bandwidth: rate.bytes.map(TokenBucketConfig::a_second),
            ops: rate.operations.map(TokenBucketConfig::a_second),
        }
    }
}

impl TokenBucketConfig {
    /// Small ones are filled once a second: a tenth of them would not be whole.
    fn a_second(tokens: u64) -> Self {
        let fills = SECOND / REFILL;
        match tokens.is_multiple_of(fills) || tokens >= 100 * fills {
            true => Self {
                size: tokens / fills,
                refill_time: REFILL,
            },
            false => Self {
                size: tokens,
                refill_time: SECOND,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_bucket_that_is_filled_ten_times_a_second_or_once() {
        let config = |bytes, operations| {
            let rate = Rate {
                bytes: Some(bytes),
                operations,
            };
            serde_json::to_value(RateLimiterConfig::new(&rate)).unwrap()
        };
        assert_eq!(
            config(10 << 20, Some(7)),
            serde_json::json!({
                "bandwidth": {"size": 1_048_576, "refill_time": 100},
                "ops": {"size": 7, "refill_time": 1000},
            })
        );
        assert_eq!(
            config(20, None),
            serde_json::json!({"bandwidth": {"size": 2, "refill_time": 100}})
        );
    }
}
