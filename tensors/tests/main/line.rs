use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flair_tensors::line::in_order;

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// Blocks take unequal time.
fn dawdle(index: u64) {
    std::thread::sleep(Duration::from_micros(index * 7919 % 500));
}

#[test]
fn blocks_are_delivered_in_order_and_few_are_in_hand() {
    for count in [0, 1, 2, 7, 100] {
        for threads in (1..=8).map(threads) {
            let (in_hand, most) = (AtomicU64::new(0), AtomicU64::new(0));
            let delivered = in_order(
                threads,
                count,
                Vec::new(),
                |index, own: &mut u64| {
                    most.fetch_max(in_hand.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    dawdle(index);
                    *own = index * 2;
                    Ok::<_, ()>(())
                },
                |delivered, index, own| {
                    in_hand.fetch_sub(1, Ordering::SeqCst);
                    delivered.push((index, *own));
                    Ok(())
                },
            );
            assert_eq!(delivered, Ok((0..count).map(|index| (index, index * 2)).collect()));
            assert!(most.load(Ordering::SeqCst) <= threads.get() as u64);
        }
    }
}

#[test]
fn the_first_error_by_order_ends_it() {
    for threads in (1..=8).map(threads) {
        let delivered = AtomicU64::new(0);
        let result = in_order(
            threads,
            1000,
            (),
            |index, (): &mut ()| {
                // A later one fails sooner.
                dawdle(if index == 20 { 50 } else { 0 });
                if index == 20 || index == 22 { Err(index) } else { Ok(()) }
            },
            |(), _, ()| {
                delivered.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!(result, Err(20));
        assert_eq!(delivered.load(Ordering::SeqCst), 20);
        let result = in_order(
            threads,
            1000,
            (),
            |_, (): &mut ()| Ok(()),
            |(), index, ()| {
                if index < 5 { Ok(()) } else { Err(index) }
            },
        );
        assert_eq!(result, Err(5));
    }
}

#[test]
fn a_panic_leaves_nobody_waiting() {
    for bad in [0, 3, 999] {
        for threads in [1, 2, 8].map(threads) {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                in_order(
                    threads,
                    1000,
                    (),
                    |index, (): &mut ()| {
                        assert_ne!(index, bad, "as planned");
                        Ok::<_, ()>(())
                    },
                    |(), _, ()| Ok(()),
                )
            }));
            assert!(ended.is_err());
        }
    }
}
