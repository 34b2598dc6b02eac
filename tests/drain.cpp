#include <array>
#include <functional>
#include <gtest/gtest.h>
#include <string>

#include <drover/worker/detail/drain.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::detail::Deadline;
using drover::detail::Drain;
using Action = Drain::Action;

constexpr Duration grace = 10s;
const Clock::time_point start{1000s};

/// Runs a drain to its end on a clock that jumps from deadline to deadline.
struct Course {
  Deadline cancelled, left;

  static Course of(Drain drain, Clock::time_point now) {
    Course course;
    for (;;) {
      const Action action = drain.next(now);
      if (action == Action::leave) {
        course.left = now;
        return course;
      }
      if (action == Action::cancel_calls) {
        EXPECT_FALSE(course.cancelled) << "told twice";
        course.cancelled = now;
        continue;
      }
      const Deadline next = drain.deadline();
      if (!next) return course;
      EXPECT_GT(*next, now) << "a deadline that is over, and nothing to do";
      if (*next <= now) return course;
      now = *next;
    }
  }
};

TEST(Drain, DoesNothingUnlessAsked) {
  Drain drain(grace);
  EXPECT_FALSE(drain.draining());
  EXPECT_FALSE(drain.bounded());
  EXPECT_EQ(drain.deadline(), std::nullopt);
  EXPECT_EQ(drain.next(start + 1000h), Action::none);
}

TEST(Drain, StopCancelsAtTheGraceAndExitsBeforeSigterm) {
  Drain drain(grace);
  drain.stop(start, start + 1s, start + 6s);
  EXPECT_TRUE(drain.draining());
  EXPECT_EQ(drain.next(start + 1s - 1ns), Action::none);
  EXPECT_EQ(drain.deadline(), start + 1s);
  EXPECT_EQ(drain.next(start + 1s), Action::cancel_calls);
  EXPECT_EQ(drain.next(start + 1s), Action::none);
  EXPECT_EQ(drain.deadline(), start + 6s - 250ms);
  EXPECT_EQ(drain.next(start + 6s - 250ms - 1ns), Action::none);
  EXPECT_EQ(drain.next(start + 6s - 250ms), Action::leave);
  EXPECT_EQ(drain.next(start + 7s), Action::leave);
}

TEST(Drain, MarginShrinksWithAShortBudget) {
  Drain drain(grace);
  drain.stop(start, start, start + 80ms);
  EXPECT_EQ(Course::of(drain, start).left, start + 60ms);
}

TEST(Drain, MarginDoesNotShortenTheGrace) {
  Drain brief(grace), none(grace), unbounded(grace);
  brief.stop(start, start + 1s, start + 1100ms);
  const Course course = Course::of(brief, start);
  EXPECT_EQ(course.cancelled, start + 1s);
  EXPECT_EQ(course.left, start + 1075ms);
  none.stop(start, start + 1s, start + 1s);
  EXPECT_EQ(Course::of(none, start).left, start + 1s);
  unbounded.stop(start, std::nullopt, start + 1s);
  EXPECT_EQ(Course::of(unbounded, start).left, start + 750ms);
}

TEST(Drain, PassedDeadlineExitsAtOnce) {
  Drain drain(grace);
  drain.stop(start, start, start - 1s);
  EXPECT_EQ(drain.next(start), Action::leave);
}

TEST(Drain, StopWithoutBoundsWaitsForever) {
  Drain drain(grace);
  drain.stop(start, std::nullopt, std::nullopt);
  EXPECT_TRUE(drain.draining());
  EXPECT_EQ(drain.deadline(), std::nullopt);
  EXPECT_EQ(drain.next(start + 1000h), Action::none);
}

TEST(Drain, TerminateCancelsAtOnceAndBoundsTheRest) {
  Drain drain(grace);
  drain.terminate(start);
  const Course course = Course::of(drain, start);
  EXPECT_EQ(course.cancelled, start);
  EXPECT_EQ(course.left, start + grace);
}

TEST(Drain, ZeroGraceLeavesTimeToExit) {
  Drain terminated(0s), idle(0s), orphaned(0s);
  terminated.terminate(start);
  EXPECT_EQ(Course::of(terminated, start).left, start + 250ms);
  idle.stop(start, start, std::nullopt);
  idle.finished(start);
  EXPECT_EQ(Course::of(idle, start).left, start + 250ms);
  orphaned.parent_died(start);
  EXPECT_EQ(Course::of(orphaned, start).left, start) << "but not once the parent has died";
}

TEST(Drain, FirstInterruptDrainsAndSecondCancels) {
  Drain drain(grace);
  drain.interrupt(start);
  EXPECT_TRUE(drain.draining());
  EXPECT_EQ(Course::of(drain, start).cancelled, std::nullopt);
  drain.interrupt(start + 3s);
  const Course course = Course::of(drain, start + 3s);
  EXPECT_EQ(course.cancelled, start + 3s);
  EXPECT_EQ(course.left, start + 3s + grace);
}

TEST(Drain, ParentDeathCountsFromItsFirstReport) {
  Drain drain(grace);
  drain.parent_died(start);
  drain.parent_died(start + 5s);
  EXPECT_EQ(Course::of(drain, start + 5s).left, start + grace);
}

TEST(Drain, KeepsTheBudgetAfterTheLastCall) {
  Drain drain(grace);
  drain.stop(start, start + 30s, start + 35s);
  drain.finished(start + 1s);
  const Course course = Course::of(drain, start + 1s);
  EXPECT_EQ(course.cancelled, std::nullopt) << "there is nothing left to cancel";
  EXPECT_EQ(course.left, start + 35s - 250ms);
}

TEST(Drain, IsBoundedAfterTheLastCallWithoutABudget) {
  Drain drain(grace);
  drain.interrupt(start);
  drain.finished(start + 100s);
  drain.finished(start + 105s);
  EXPECT_EQ(Course::of(drain, start + 105s).left, start + 100s + grace - 250ms);
}

// Every pair of events in both orders, the second one at any time of the first one's course: a later event never
// lengthens a drain.
struct Happening {
  std::string name;
  std::function<void(Drain&, Clock::time_point)> tell;
};

const std::array<Happening, 9>& happenings() {
  static const std::array<Happening, 9> all{{
      {"stop without bounds", [](Drain& d, Clock::time_point t) { d.stop(t, std::nullopt, std::nullopt); }},
      {"stop at once", [](Drain& d, Clock::time_point t) { d.stop(t, t, t + 5s); }},
      {"stop in 30 s", [](Drain& d, Clock::time_point t) { d.stop(t, t + 30s, t + 35s); }},
      {"stop with a bound on the end only", [](Drain& d, Clock::time_point t) { d.stop(t, std::nullopt, t + 20s); }},
      {"stop that only cancels", [](Drain& d, Clock::time_point t) { d.stop(t, t + 2s, std::nullopt); }},
      {"SIGTERM", [](Drain& d, Clock::time_point t) { d.terminate(t); }},
      {"SIGINT", [](Drain& d, Clock::time_point t) { d.interrupt(t); }},
      {"SIGINT twice", [](Drain& d, Clock::time_point t) { d.interrupt(t), d.interrupt(t); }},
      {"the parent's death", [](Drain& d, Clock::time_point t) { d.parent_died(t); }},
  }};
  return all;
}

bool no_later(Deadline a, Deadline b) { return !b || (a && *a <= *b); }

TEST(Drain, LaterEventOnlyShortensTheDrain) {
  for (const Happening& first : happenings()) {
    for (const Happening& second : happenings()) {
      for (const Duration later : {Duration(0s), Duration(500ms), Duration(1s), Duration(3s), Duration(12s)}) {
        SCOPED_TRACE(first.name + ", then " + second.name);
        const Clock::time_point then = start + later;
        Drain one(grace);
        first.tell(one, start);
        const Course alone = Course::of(one, start);
        if (alone.left && *alone.left <= then) continue;  // the drain is over before the second event
        Drain other(grace);
        second.tell(other, then);
        const Course other_alone = Course::of(other, then);

        Drain both(grace);
        first.tell(both, start);
        Deadline cancelled;
        if (alone.cancelled && *alone.cancelled < then) {
          EXPECT_EQ(both.next(*alone.cancelled), Action::cancel_calls);
          cancelled = alone.cancelled;
        }
        second.tell(both, then);
        const Course course = Course::of(both, then);
        if (cancelled) {
          EXPECT_EQ(course.cancelled, std::nullopt) << "calls are cancelled once";
        } else {
          // The process may exit before calls would have been cancelled, which ends them as well.
          const Deadline calls_end = drover::detail::earlier(course.cancelled, course.left);
          EXPECT_TRUE(no_later(calls_end, alone.cancelled));
          EXPECT_TRUE(no_later(calls_end, other_alone.cancelled));
        }
        EXPECT_TRUE(no_later(course.left, alone.left));
        EXPECT_TRUE(no_later(course.left, other_alone.left));
      }
    }
  }
}

}  // namespace
