// The parts of a call in the parent, without processes: its states, the queue, the callers of status(), the data
// socket.
#include <array>
#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <random>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/io_context.hpp>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>

namespace {

using drover::detail::Call;
using drover::detail::CallEvent;
using drover::detail::CallQueue;
using drover::detail::CallState;
using drover::detail::CallStep;
using drover::detail::Dispatcher;
using drover::detail::FrameHeader;
using drover::detail::step;

TEST(Dispatcher, SpareMemoryGrowsWithTheMessageLimit) {
  asio::io_context context;
  drover::WorkerOptions options;
  const auto spare = [&] {
    return Dispatcher::create(context.get_executor(), options, 1)->allocate_call()->spare_memory;
  };
  EXPECT_EQ(spare(), std::size_t{16} << 20);
  options.max_message_size = std::size_t{1} << 30;
  EXPECT_EQ(spare(), std::size_t{256} << 20);
}

// ---- the states -----------------------------------------------------------------------------------------------------

constexpr std::array states{CallState::queued,  CallState::resting,   CallState::ahead,
                            CallState::running, CallState::abandoned, CallState::ended};
constexpr std::array events{CallEvent::sent,         CallEvent::sent_ahead, CallEvent::turn_came, CallEvent::answered,
                            CallEvent::cancelled,    CallEvent::expired,    CallEvent::returned,  CallEvent::refused,
                            CallEvent::worker_ended, CallEvent::retried,    CallEvent::rested};

bool waits_in_queue(CallState state) { return state == CallState::queued; }
bool has_slot(CallState state) {
  return state == CallState::ahead || state == CallState::running || state == CallState::abandoned;
}
bool caller_waits(CallState state) { return state != CallState::abandoned && state != CallState::ended; }

TEST(CallState, EachStepMatchesTheChangeOfState) {
  for (const CallState state : states)
    for (const CallEvent event : events) {
      SCOPED_TRACE(testing::Message() << "state " << int(state) << ", event " << int(event));
      const CallStep done = step(state, event);
      EXPECT_EQ(done.answers_caller, caller_waits(state) && !caller_waits(done.next));
      EXPECT_EQ(done.leaves_queue, waits_in_queue(state) && !waits_in_queue(done.next));
      EXPECT_EQ(done.releases_slot, has_slot(state) && !has_slot(done.next));
      EXPECT_EQ(done.enters_queue, !waits_in_queue(state) && waits_in_queue(done.next));
      EXPECT_EQ(done.cancels_in_worker, state != CallState::abandoned && done.next == CallState::abandoned);
      const bool goes_back = event == CallEvent::returned || event == CallEvent::retried ||
                             event == CallEvent::rested ||
                             (state == CallState::ahead && event == CallEvent::worker_ended);
      if (!goes_back) {
        EXPECT_GE(int(done.next), int(state)) << "a call goes back only if its worker returns it or has exited";
      }
    }
}

TEST(CallState, IgnoresEventsThatDoNotFitTheState) {
  EXPECT_EQ(step(CallState::queued, CallEvent::answered), CallStep{.next = CallState::queued});
  EXPECT_EQ(step(CallState::queued, CallEvent::worker_ended), CallStep{.next = CallState::queued});
  EXPECT_EQ(step(CallState::queued, CallEvent::returned), CallStep{.next = CallState::queued});
  EXPECT_EQ(step(CallState::queued, CallEvent::turn_came), CallStep{.next = CallState::queued});
  for (const CallEvent event : {CallEvent::sent, CallEvent::sent_ahead, CallEvent::refused})
    EXPECT_EQ(step(CallState::ahead, event), CallStep{.next = CallState::ahead});
  for (const CallEvent event : {CallEvent::sent, CallEvent::sent_ahead, CallEvent::turn_came, CallEvent::refused})
    EXPECT_EQ(step(CallState::running, event), CallStep{.next = CallState::running});
  for (const CallEvent event : {CallEvent::sent, CallEvent::sent_ahead, CallEvent::turn_came, CallEvent::cancelled,
                                CallEvent::expired, CallEvent::refused})
    EXPECT_EQ(step(CallState::abandoned, event), CallStep{.next = CallState::abandoned});
  for (const CallEvent event : events) EXPECT_EQ(step(CallState::ended, event), CallStep{.next = CallState::ended});
}

TEST(CallState, ExpiredOrCancelledInTheQueueIsNeverSent) {
  for (const CallEvent event : {CallEvent::expired, CallEvent::cancelled, CallEvent::refused}) {
    const CallStep done = step(CallState::queued, event);
    EXPECT_EQ(done.next, CallState::ended);
    EXPECT_FALSE(done.cancels_in_worker);
    EXPECT_EQ(step(done.next, CallEvent::sent).next, CallState::ended);
  }
}

// A call that was sent ahead has not begun: the exit of its worker does not end it.
TEST(CallState, SentAheadGoesBackToTheQueueUntilItsTurnComes) {
  for (const CallEvent event : {CallEvent::worker_ended, CallEvent::returned}) {
    const CallStep done = step(CallState::ahead, event);
    EXPECT_EQ(done, (CallStep{.next = CallState::queued, .enters_queue = true, .releases_slot = true}));
  }
  EXPECT_EQ(step(CallState::ahead, CallEvent::turn_came), CallStep{.next = CallState::running});
  EXPECT_EQ(step(CallState::running, CallEvent::worker_ended).next, CallState::ended);
}

// A call whose worker has exited may be made again. It rests first, if only for a moment.
TEST(CallState, RetriedRestsUntilItIsQueuedAgain) {
  EXPECT_EQ(step(CallState::running, CallEvent::retried),
            (CallStep{.next = CallState::resting, .releases_slot = true}));
  EXPECT_EQ(step(CallState::resting, CallEvent::rested), (CallStep{.next = CallState::queued, .enters_queue = true}));
  for (const CallEvent event : {CallEvent::cancelled, CallEvent::expired, CallEvent::refused})
    EXPECT_EQ(step(CallState::resting, event), (CallStep{.next = CallState::ended, .answers_caller = true}));
  for (const CallEvent event : {CallEvent::sent, CallEvent::sent_ahead, CallEvent::turn_came, CallEvent::answered,
                                CallEvent::worker_ended, CallEvent::retried, CallEvent::returned})
    EXPECT_EQ(step(CallState::resting, event), CallStep{.next = CallState::resting});
  for (const CallState state : {CallState::queued, CallState::ahead, CallState::abandoned, CallState::ended})
    EXPECT_EQ(step(state, CallEvent::retried), CallStep{.next = state}) << int(state);
}

struct Tally {
  int answered = 0, left_queue = 0, places_taken = 0, slots_released = 0, cancels = 0;
  CallState state = CallState::queued;

  void apply(CallEvent event) {
    const CallStep done = step(state, event);
    places_taken += !has_slot(state) && has_slot(done.next);
    state = done.next;
    answered += done.answers_caller;
    left_queue += done.leaves_queue - done.enters_queue;
    slots_released += done.releases_slot;
    cancels += done.cancels_in_worker;
  }
};

TEST(CallState, TwoEventsInAnyOrderCompleteTheCallerOnce) {
  for (const auto sent : {CallEvent::turn_came, CallEvent::sent, CallEvent::sent_ahead})
    for (const CallEvent first : events)
      for (const CallEvent second : events) {
        SCOPED_TRACE(testing::Message() << "after " << int(sent) << ", events " << int(first) << ", " << int(second));
        Tally tally;
        tally.apply(sent);  // the turn of a queued call does not come: it stays there
        tally.apply(first);
        tally.apply(second);
        EXPECT_LE(tally.answered, 1);
        EXPECT_LE(tally.cancels, 1);
        // Whatever the events were, the worker's exit or a refusal ends the call, and nothing is left of it.
        tally.apply(CallEvent::turn_came);
        tally.apply(has_slot(tally.state) ? CallEvent::worker_ended : CallEvent::refused);
        EXPECT_EQ(tally.state, CallState::ended);
        EXPECT_EQ(tally.answered, 1);
        EXPECT_EQ(tally.left_queue, 1);
        EXPECT_EQ(tally.slots_released, tally.places_taken);
      }
}

TEST(CallState, NoEventSequenceCompletesTwiceOrLosesASlot) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    Tally tally;
    for (int i = 0; i < 8; ++i) tally.apply(events[random() % events.size()]);
    ASSERT_EQ(tally.answered, caller_waits(tally.state) ? 0 : 1);
    ASSERT_EQ(tally.left_queue, waits_in_queue(tally.state) ? 0 : 1);
    ASSERT_EQ(tally.places_taken - tally.slots_released, has_slot(tally.state) ? 1 : 0);
  }
}

// ---- the queue ------------------------------------------------------------------------------------------------------

TEST(CallQueue, KeepsItsOrderWhenCallsLeave) {
  std::mt19937 random(17);
  CallQueue queue;
  std::vector<Call*> model;
  std::uint64_t id = 0;
  for (int round = 0; round < 20000; ++round) {
    switch (model.size() > 100 ? 1 : random() % 4) {
      case 0:
      case 1: {
        auto call = std::make_shared<Call>();
        call->id = ++id;
        model.push_back(call.get());
        queue.push(std::move(call));
        break;
      }
      case 2:
        if (!model.empty()) {
          const auto at = random() % model.size();
          const auto removed = queue.remove(*model[at]);
          ASSERT_EQ(removed.get(), model[at]);
          ASSERT_EQ(removed.use_count(), 1);
          ASSERT_EQ(removed->next, nullptr);
          model.erase(model.begin() + static_cast<std::ptrdiff_t>(at));
        }
        break;
      default:
        if (!model.empty()) {
          ASSERT_EQ(&queue.front(), model.front());
          ASSERT_EQ(queue.pop().get(), model.front());
          model.erase(model.begin());
        }
    }
    ASSERT_EQ(queue.size(), model.size());
    ASSERT_EQ(queue.empty(), model.empty());
  }
  for (Call* call : model) ASSERT_EQ(queue.pop().get(), call);
}

TEST(CallQueue, PutsReturnedCallsAtItsFront) {
  CallQueue queue;
  std::vector<std::shared_ptr<Call>> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(std::make_shared<Call>());
  queue.push_front(calls[1]);  // into an empty queue
  queue.push(calls[2]);
  queue.push_front(calls[0]);
  queue.push(calls[3]);
  EXPECT_EQ(queue.size(), 4u);
  EXPECT_EQ(queue.remove(*calls[0]), calls[0]);
  queue.push_front(calls[4]);
  for (const int expected : {4, 1, 2, 3}) EXPECT_EQ(queue.pop(), calls[static_cast<std::size_t>(expected)]);
  EXPECT_TRUE(queue.empty());
}

TEST(CallQueue, IsDestroyedWithoutDeepRecursion) {
  auto queue = std::make_unique<CallQueue>();
  for (int i = 0; i < 200000; ++i) queue->push(std::make_shared<Call>());
  queue.reset();
}

// ---- the callers of status() ----------------------------------------------------------------------------------------

using drover::detail::StatusRequests;
using drover::detail::StatusWaiter;

TEST(StatusRequests, LaterCallersShareTheNextRequest) {
  StatusRequests requests;
  const auto first = std::make_shared<StatusWaiter>(), second = std::make_shared<StatusWaiter>(),
             third = std::make_shared<StatusWaiter>();
  EXPECT_TRUE(requests.add(first));
  const std::uint64_t id = requests.begin();
  EXPECT_FALSE(requests.add(second));
  EXPECT_FALSE(requests.add(third));
  EXPECT_FALSE(requests.answer(id + 1, {}));
  EXPECT_TRUE(requests.answer(id, {.served = 1}));
  EXPECT_EQ(first->status->served, 1u);
  EXPECT_FALSE(second->has_ended()) << "its question came later";
  ASSERT_TRUE(requests.wants_another());
  EXPECT_FALSE(requests.answer(id, {})) << "answered before";
  EXPECT_TRUE(requests.answer(requests.begin(), {.served = 2}));
  EXPECT_EQ(second->status->served, 2u);
  EXPECT_EQ(third->status->served, 2u);
  EXPECT_TRUE(requests.empty());
}

// A health check on a suspended worker gives up again and again.
TEST(StatusRequests, CallersThatGiveUpLeaveNoMemoryBehind) {
  StatusRequests requests;
  const auto asked = std::make_shared<StatusWaiter>();
  requests.add(asked);
  requests.begin();
  for (int i = 0; i < 10000; ++i) requests.add(std::make_shared<StatusWaiter>());
  EXPECT_LE(requests.capacity(), 16u);
}

TEST(StatusRequests, FailureCompletesEachCallerOnce) {
  StatusRequests requests;
  const auto first = std::make_shared<StatusWaiter>(), second = std::make_shared<StatusWaiter>();
  requests.add(first);
  requests.begin();
  requests.add(second);
  requests.fail([] { return std::make_exception_ptr(1); });
  EXPECT_TRUE(first->failure && second->failure);
  first->end_with(drover::WorkerStatus{});
  EXPECT_FALSE(first->status);
  EXPECT_TRUE(requests.empty());
}

// ---- the data socket ------------------------------------------------------------------------------------------------

/// A data socket without a session around it.
struct LinkAlone final : drover::detail::LinkOwner, drover::detail::DataLink::Listener {
  std::unique_lock<std::mutex> lock() const override { return {}; }
  std::unique_lock<std::mutex> lock_context() const override { return {}; }
  std::shared_ptr<void> keep_alive() override { return nullptr; }
  bool foreign() const noexcept override { return false; }
  void socket_failed(const char* what, std::error_code error) override { ADD_FAILURE() << what << error; }
  void peer_failed(std::exception_ptr) override { ++failures; }
  void run_completions(std::unique_lock<std::mutex>) override {}
  std::size_t slot() const noexcept override { return 0; }
  std::string describe() const override { return "nobody"; }
  void send_cancel(std::uint64_t, drover::CancelReason) override {}
  void send_recall(std::uint64_t) override {}
  void kill_worker(const Call&) override {}
  void read_results(int) override {}
  void result(const std::shared_ptr<Call>& call, drover::detail::Outcome) override { link.release_slot(*call); }
  void begun(Call&) override {}
  void data_closed() override {}
  void data_broken() override {}

  int failures = 0;
  drover::detail::DataLink link{*this, *this, 1000};
};

TEST(DataLink, SendsSmallerBatchesToAnotherCore) {
  cpu_set_t before, one;
  ::sched_getaffinity(0, sizeof before, &before);
  CPU_ZERO(&one);
  CPU_SET(::sched_getcpu(), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  const auto here = drover::detail::current_core();
  ASSERT_NE(here, 0);

  auto [ours, theirs] = drover::detail::socket_pair();
  LinkAlone alone;
  auto& link = alone.link;
  link.open(std::move(ours), 1 << 20);
  bool gathered = false;
  const auto send = [&](bool may_gather) {
    auto call = std::make_shared<Call>();
    gathered = link.send(call, may_gather);
    return call;
  };
  const auto answer_from = [&](std::uint16_t core) {
    link.flush_gathered();
    const auto call = send(false);
    const FrameHeader result{
        .type = drover::detail::FrameType::result, .core = core, .slot = call->slot, .id = call->id};
    ASSERT_EQ(::send(theirs.get(), &result, sizeof result, 0), static_cast<ssize_t>(sizeof result));
    link.read(1);
    EXPECT_EQ(call->link, nullptr);
  };
  const auto sent_until_enough = [&] {
    int sent = 0;
    do send(true), ++sent;
    while (gathered && sent < 100);
    return sent;
  };
  EXPECT_EQ(sent_until_enough(), 1);    // the worker is idle
  EXPECT_EQ(sent_until_enough(), 100);  // the worker has not reported its core yet
  answer_from(static_cast<std::uint16_t>(here + 1));
  EXPECT_EQ(sent_until_enough(), drover::detail::Channel::frames_at_a_time);
  EXPECT_EQ(sent_until_enough(), drover::detail::Channel::frames_at_a_time);
  answer_from(here);
  EXPECT_EQ(sent_until_enough(), 100);
  answer_from(0);
  EXPECT_EQ(sent_until_enough(), 100);
  ::sched_setaffinity(0, sizeof before, &before);
}

}  // namespace
