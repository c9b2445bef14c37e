//! Bodies that are looked at twice without a wake-up in between.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use actix_web::rt;

/// How late somebody who is waiting is looked at again at the latest.
const EVERY: Duration = Duration::from_secs(1);

/// Wakes requests that were left without a wake-up, which hardly ever happens.
///
/// An HTTP/1 connection hands a request over before it takes the body out of what it has read, and looks at the request again
/// straight away, whoever wakes it or not. To be woken as well would make it look a third time, in vain, at a thirtieth of what
/// a verification costs. Only a request that had to wait for the one before it on its connection, and whose body does not come,
/// is not looked at again. That, and whatever else may stand between the two, is what this is for.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    waiting: RefCell<Vec<Waker>>,
}

impl Reminder {
    /// One for this thread, which reminds for as long as it is kept.
    pub(crate) fn start() -> Rc<Self> {
        let reminder = Rc::new(Self::default());
        rt::spawn(keep_reminding(Rc::downgrade(&reminder)));
        reminder
    }

    /// Leaves somebody without a wake-up until they are looked at or the time has come.
    pub(crate) fn leave(&self, waker: &Waker) {
        self.waiting.borrow_mut().push(waker.clone());
    }

    /// They are looked at.
    pub(crate) fn looked_at(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        // Nearly always the last one: nothing else has happened on this thread since.
        let place = waiting.iter().rposition(|known| known.will_wake(waker));
        if let Some(place) = place {
            waiting.swap_remove(place);
        }
    }

    fn remind(&self) {
        // Taken out first: to wake may be to look at.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

async fn keep_reminding(reminder: Weak<Reminder>) {
    loop {
        rt::time::sleep(EVERY).await;
        match reminder.upgrade() {
            Some(reminder) => reminder.remind(),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Poll, Wake};

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[actix_web::test]
    async fn whoever_is_left_is_woken_in_the_end() {
        let reminder = Reminder::start();
        let mut looks = 0;
        poll_fn(|context| {
            looks += 1;
            if looks == 3 {
                return Poll::Ready(());
            }
            reminder.leave(context.waker());
            Poll::Pending
        })
        .await;
        assert!(reminder.waiting.borrow().is_empty());
    }

    #[test]
    fn whoever_was_looked_at_is_not_woken() {
        let reminder = Reminder::default();
        let all: [Arc<Woken>; 3] = Default::default();
        let wakers = all.clone().map(Waker::from);
        for waker in &wakers {
            reminder.leave(waker);
        }
        reminder.looked_at(&wakers[1]);
        reminder.looked_at(&wakers[1]);
        for _ in 0..2 {
            reminder.remind();
        }
        let woken = all.map(|woken| woken.0.load(Ordering::Relaxed));
        assert_eq!(woken, [1, 0, 1]);
    }
}
