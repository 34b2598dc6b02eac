// Calls with a key, and those of a broadcast, in every order of events: none is stuck, starved or counted twice.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <drover/pool/broadcast.hpp>
#include <drover/pool/detail/call/queue_watcher.hpp>

#include "support/failing_allocations.hpp"
#include "support/fake_worker.hpp"

namespace {
long allowed = -1;  // allocations until one fails; negative: none fails
}
bool support::allocation_fails() noexcept { return allowed >= 0 && allowed-- == 0; }

namespace {

using namespace support;
using drover::SlotResult;

class Pinned : public FakeWorkers {
 protected:
  static CallOptions with_key(unsigned priority = 1) { return {.key = "k", .priority = priority}; }

  /// A worker that has answered a call of the key within a few microseconds, and has none now.
  std::unique_ptr<FakeWorker> quick_home() {
    auto worker = std::make_unique<FakeWorker>(context_, dispatcher_);
    call(0, with_key());
    EXPECT_EQ(answer_all(*worker, true), std::vector{0});
    return worker;
  }
  /// Answers all calls that the worker gets, and returns their arguments in order.
  std::vector<int> answer_all(FakeWorker& worker, bool quick = false) {
    std::vector<int> arguments;
    while (const auto call = worker.next()) {
      arguments.push_back(call->argument);
      worker.answer(*call, quick);
      run();
    }
    return arguments;
  }
  void close_link(FakeWorker& worker) {
    const auto held = dispatcher_->lock();
    dispatcher_->close_link(worker.link);
  }
  void poison_after(unsigned deaths) {
    dispatcher_->close();
    dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), std::nullopt,
                                     {.after = deaths, .span = 60s});
  }
  std::size_t keys_in_use() {
    const auto held = dispatcher_->lock();
    return dispatcher_->keys().in_use();
  }
};

// ---- none is stuck --------------------------------------------------------------------------------------------------

TEST_F(Pinned, RestedCallGoesToTheIdleWorkerOfItsKey) {
  FakeWorker first(context_, dispatcher_);
  CallOptions options = with_key();
  options.retry = {.attempts = 2, .backoff = 20ms};
  Caller& retried = call(1, options);
  first.die();
  run();
  FakeWorker second(context_, dispatcher_);
  call(2, with_key());
  EXPECT_EQ(answer_all(second), std::vector{2});
  EXPECT_TRUE(run_until([&] { return answer_all(second) == std::vector{1}; }));
  EXPECT_EQ(retried.value, 10);
}

TEST_F(Pinned, RetriedCallGoesToTheIdleWorkerOfItsKey) {
  FakeWorker first(context_, dispatcher_);
  CallOptions options = with_key();
  options.retry = {.attempts = 2};
  Caller& retried = call(1, options);
  close_link(first);
  FakeWorker second(context_, dispatcher_);
  call(2, with_key());
  EXPECT_EQ(answer_all(second), std::vector{2});
  first.die();
  EXPECT_EQ(answer_all(second), std::vector{1});
  EXPECT_EQ(retried.value, 10);
}

// The result of the call before it overtakes RECALLED, which comes on another socket.
TEST_F(Pinned, RecalledCallGoesBackToItsIdleWorker) {
  auto home = quick_worker();
  FakeWorker other(context_, dispatcher_);
  call(1);
  call(2);
  Caller& recalled = call(3, with_key());
  const auto running = home->next(), ahead = home->next();
  ASSERT_TRUE(running && is_ahead(ahead));
  ASSERT_TRUE(run_until([&] { return !home->recalled.empty(); }));
  home->answer(*running);
  EXPECT_TRUE(home->give_back(ahead->header.id));
  EXPECT_EQ(answer_all(*home), std::vector{3});
  run();
  EXPECT_EQ(recalled.value, 30);
  answer_all(other);
}

TEST_F(Pinned, CallGetsTheRoomOfOneThatWasGivenBack) {
  auto home = quick_home();
  call(1);
  Caller& cancelled = call(2);
  const auto running = home->next(), ahead = home->next();
  ASSERT_TRUE(running && is_ahead(ahead));
  call(3, with_key());
  cancelled.cancellation.emit(asio::cancellation_type::terminal);
  run();
  home->answer(*running);
  EXPECT_FALSE(home->next());
  EXPECT_TRUE(home->give_back(ahead->header.id));
  EXPECT_EQ(answer_all(*home), std::vector{3});
}

TEST_F(Pinned, CallTakesTheRoomThatItsWorkerHas) {
  FakeWorker old(context_, dispatcher_);
  for (int i = 1; i <= 3; ++i) call(i, with_key());
  FakeWorker a(context_, dispatcher_, 2), b(context_, dispatcher_, 2);
  close_link(old);
  std::vector<Received> sent;
  for (FakeWorker* const worker : {&a, &b})
    while (const auto call = worker->next()) sent.push_back(*call);
  EXPECT_EQ(sent.size(), 2u) << "each of the calls has begun";
  EXPECT_TRUE(a.link.in_flight() == 2 || b.link.in_flight() == 2);
  for (const Received& call : sent) (a.link.in_flight() != 0 ? a : b).answer(call);
  answer_all(old);
}

TEST_F(Pinned, CallFailsWithItsPool) {
  FakeWorker home(context_, dispatcher_);
  call(1, with_key());
  Caller& second = call(2, with_key());
  const auto cause = [] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); };
  CallQueue refused;
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse(cause);
    dispatcher_->take_queued_calls().swap(refused);
  }
  complete_all_with_error(std::move(refused), cause);
  run();
  EXPECT_EQ(second.error, Errc::stopping);
  EXPECT_EQ(answer_all(home), std::vector{1});
  EXPECT_EQ(keys_in_use(), 0u);
  const auto held = dispatcher_->lock();
  dispatcher_->refuse(nullptr);
}

TEST_F(Pinned, CallThatIsUsedAgainBeginsWithItsFirstAttempt) {
  FakeWorker first(context_, dispatcher_);
  call(1, {.retry = {.attempts = 2}});
  first.die();
  FakeWorker second(context_, dispatcher_);
  EXPECT_EQ(answer_all(second), std::vector{1});
  call(2);
  const auto next = second.next();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->header.attempt, 0u);
  second.answer(*next);
  run();
}

// Their workers have not died, and still run them.
TEST_F(Pinned, CallIsNotRetriedOnceTheContextOfItsPoolIsDestroyed) {
  auto pool_context = std::make_unique<asio::io_context>(1);
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(pool_context->get_executor(), drover::WorkerOptions(), std::nullopt);
  FakeWorker first(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 5}});
  FakeWorker second(context_, dispatcher_);
  pool_context.reset();
  first.die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited);
  EXPECT_FALSE(second.next());
}

// Otherwise the keys of quiet hours would all be those of one worker when there is much to do.
TEST_F(Pinned, KeysAreSharedOutAmongIdleWorkers) {
  std::vector<std::unique_ptr<FakeWorker>> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(std::make_unique<FakeWorker>(context_, dispatcher_));
  std::vector<std::size_t> keys(3);
  for (int i = 0; i < 9; ++i) {
    call(i, {.key = std::to_string(i)});
    for (std::size_t at = 0; at < workers.size(); ++at) keys[at] += answer_all(*workers[at]).size();
  }
  EXPECT_EQ(keys, std::vector<std::size_t>(3, 3));
}

/// Counts the calls that wait for a worker.
struct Watcher final : drover::detail::QueueWatcher {
  void call_waits(std::size_t waiting) noexcept override { most = std::max(most, waiting); }
  std::size_t most = 0;
};

TEST_F(Pinned, CallsOfAWorkerThatClosesWaitForOthersVisibly) {
  FakeWorker old(context_, dispatcher_);
  for (int i = 1; i <= 3; ++i) call(i, with_key());
  Watcher watcher;
  const auto watch = [&](Watcher* by) {
    const auto held = dispatcher_->lock();
    dispatcher_->watch_queue(by);
  };
  watch(&watcher);
  close_link(old);
  EXPECT_EQ(watcher.most, 2u) << "an elastic pool starts workers for them";
  watch(nullptr);
  FakeWorker other(context_, dispatcher_);
  EXPECT_EQ(answer_all(other), (std::vector{2, 3}));
  answer_all(old);
}

// ---- none is starved ------------------------------------------------------------------------------------------------

TEST_F(Pinned, CallIsNotOvertakenByCallsAhead) {
  auto home = quick_home();
  for (int i = 1; i <= 3; ++i) call(i);  // one runs, one is ahead, one waits
  call(4, with_key());
  for (int i = 5; i < 10; ++i) call(i);
  const auto order = answer_all(*home, true);
  EXPECT_EQ(order, (std::vector{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_F(Pinned, LargeCallIsNotOvertakenByCallsAhead) {
  auto home = quick_home();
  call(1);
  call(2, with_key(), std::string(100'000, 'x'));
  for (int i = 3; i < 6; ++i) call(i);
  EXPECT_EQ(answer_all(*home, true), (std::vector{1, 2, 3, 4, 5}));
}

TEST_F(Pinned, UrgentCallOvertakesOthersOfItsKey) {
  FakeWorker home(context_, dispatcher_);
  call(1, with_key());
  call(2, with_key());
  call(3, with_key(0));
  call(4, with_key(3));
  call(5);
  call(6, {.priority = 2});
  EXPECT_EQ(answer_all(home), (std::vector{1, 4, 6, 2, 5, 3}));
}

TEST_F(Pinned, LowCallGetsItsTurnAmongOthers) {
  FakeWorker home(context_, dispatcher_);
  call(0, with_key());
  call(1, with_key(0));
  for (int i = 2; i < 60; ++i) call(i);
  const auto order = answer_all(home);
  EXPECT_EQ(std::find(order.begin(), order.end(), 1) - order.begin(), 17);
}

TEST_F(Pinned, OthersGetTheirTurnAmongUrgentCallsOfAKey) {
  FakeWorker home(context_, dispatcher_);
  call(0, with_key());
  call(1, {.priority = 0});
  for (int i = 2; i < 60; ++i) call(i, with_key(3));
  const auto order = answer_all(home);
  EXPECT_EQ(std::find(order.begin(), order.end(), 1) - order.begin(), 17);
}

// ---- poison ---------------------------------------------------------------------------------------------------------

TEST_F(Pinned, WorkerThatDiesUnderSeveralCallsOfAKeyCountsOnce) {
  poison_after(2);
  CallOptions retries = with_key();
  retries.retry = {.attempts = 2};
  auto first = std::make_unique<FakeWorker>(context_, dispatcher_, 4);
  call(1, with_key());
  Caller &second = call(2, retries), &third = call(3, retries);
  first->die();
  run();
  EXPECT_TRUE(second.waits() && third.waits());
  auto worker = std::make_unique<FakeWorker>(context_, dispatcher_, 4);
  while (worker->next()) {
  }
  EXPECT_TRUE(call(4, with_key()).waits());
  worker->die();
  run();
  EXPECT_EQ(third.error, Errc::worker_exited);
  EXPECT_EQ(call(5, with_key()).error, Errc::poisoned);
  EXPECT_EQ(keys_in_use(), 0u);
}

TEST_F(Pinned, DeathsUnderRetriedCallsCount) {
  poison_after(2);
  CallOptions retries = with_key();
  retries.retry = {.attempts = 9};
  Caller* caller = nullptr;
  for (int death = 0; death < 2; ++death) {
    FakeWorker worker(context_, dispatcher_);
    if (caller == nullptr) caller = &call(1, retries);
    EXPECT_TRUE(caller->waits());
    worker.die();
    run();
  }
  EXPECT_EQ(caller->error, Errc::worker_exited);
  EXPECT_EQ(call(2, with_key()).error, Errc::poisoned);
}

TEST_F(Pinned, AnswerForgetsTheDeathsBeforeIt) {
  poison_after(2);
  for (int round = 0; round < 4; ++round) {
    FakeWorker worker(context_, dispatcher_);
    call(1, with_key());
    EXPECT_EQ(answer_all(worker), std::vector{1}) << "after " << round << " deaths, none of them in a row";
    call(2, with_key());
    worker.die();
    run();
  }
}

TEST_F(Pinned, PoisonedCallEndsWithoutAnotherEvent) {
  poison_after(1);
  FakeWorker first(context_, dispatcher_);
  call(1, with_key());
  Caller& behind = call(2, with_key());
  first.die();
  run();
  EXPECT_TRUE(behind.waits());
  FakeWorker second(context_, dispatcher_);
  run();
  EXPECT_EQ(behind.error, Errc::poisoned);
  EXPECT_EQ(keys_in_use(), 0u);
}

// ---- broadcast ------------------------------------------------------------------------------------------------------

TEST_F(Pinned, BroadcastCallThatItsWorkerGivesBackEnds) {
  FakeWorker worker(context_, dispatcher_, 2);
  call(1);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 2),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  close_link(worker);
  {
    const auto held = dispatcher_->lock();
    dispatcher_->take_back(worker.link, first->header.id);
  }
  run();
  ASSERT_EQ(results.size(), 1u) << "no other worker has to come first";
  EXPECT_FALSE(results[0].ok());
  EXPECT_EQ(queued(), 0u);
  worker.answer(*first);
  run();
}

// ---- any order of events --------------------------------------------------------------------------------------------

/// Workers, calls and broadcasts with random options, and what may happen to them.
class AnyOrder : public Pinned, public testing::WithParamInterface<unsigned> {
 protected:
  struct Worker {
    std::unique_ptr<FakeWorker> fake;
    std::vector<Received> calls{};  // that it has received and not answered
    std::size_t given_back = 0;     // of FakeWorker::recalled
    bool closed = false;
  };

  unsigned below(unsigned bound) { return static_cast<unsigned>(random_() % bound); }
  bool one_in(unsigned count) { return below(count) == 0; }

  void begin_call() {
    CallOptions options{.priority = below(4), .when_full = drover::WhenFull::wait};
    if (one_in(2)) options.key = std::string(1, static_cast<char>('a' + below(3)));
    if (one_in(3)) options.retry = {.attempts = 1 + below(3), .backoff = below(2) * 1ms};
    if (one_in(6)) options.deadline = 1ms + below(6) * 1ms;
    if (one_in(6)) options.run_for = 1ms + below(3) * 1ms;
    if (one_in(4)) options.kill_after = 1ms;
    call(++argument_, options, one_in(10) ? std::string(70'000, 'x') : std::string());
  }
  void begin_broadcast() {
    ++broadcasts_;
    asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {.priority = below(4)}, "f", 0),
                   [this](const std::exception_ptr&, const std::vector<SlotResult<int>>&) { --broadcasts_; });
    run();
  }
  void receive(Worker& worker) {
    while (auto call = worker.fake->next()) worker.calls.push_back(*call);
  }
  void answer(Worker& worker) {
    if (worker.calls.empty()) return;
    const Received first = worker.calls.front();
    worker.calls.erase(worker.calls.begin());
    worker.fake->answer(first, one_in(2));
  }
  void give_back(Worker& worker) {
    if (worker.given_back == worker.fake->recalled.size()) return;
    const auto id = worker.fake->recalled[worker.given_back++];
    std::erase_if(worker.calls, [&](const Received& call) { return call.header.id == id; });
    EXPECT_TRUE(worker.fake->give_back(id));
  }
  void drain(Worker& worker) {
    close_link(*worker.fake);
    worker.closed = true;
    const std::uint64_t begun = worker.calls.empty() ? 0 : worker.calls.front().header.id;
    if (worker.calls.empty() || one_in(2)) return;
    {
      const auto held = dispatcher_->lock();
      dispatcher_->take_back(worker.fake->link, begun);
    }
    dispatcher_->run_completions(false);
    worker.calls.resize(1);
  }
  void die(std::size_t at) {
    workers_[at].fake->die(one_in(2));
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void add_worker() { workers_.push_back({std::make_unique<FakeWorker>(context_, dispatcher_, one_in(2) ? 1 : 3)}); }

  void step() {
    for (Worker& worker : workers_) receive(worker);
    const unsigned event = below(20);
    if (event < 8) return begin_call();
    if (event == 8) return begin_broadcast();
    if (event == 9) {
      context_.restart();
      context_.run_for(1ms);
      return;
    }
    if (event == 10 && !callers_.empty())
      return callers_[below(static_cast<unsigned>(callers_.size()))]->cancellation.emit(
          asio::cancellation_type::terminal);
    if (workers_.empty() || (event == 11 && workers_.size() < 4)) return add_worker();
    const std::size_t at = below(static_cast<unsigned>(workers_.size()));
    Worker& worker = workers_[at];
    if (event == 12 && !worker.closed) return drain(worker);
    if (event == 13 || worker.fake->kills != 0) return die(at);
    if (event < 16) return give_back(worker);
    answer(worker);
  }
  /// A worker with room has no call that waits for it.
  void expect_none_stuck() {
    const auto held = dispatcher_->lock();
    for (const Worker& worker : workers_) {
      const auto load = worker.fake->link.load();
      if (!load.ready || load.in_flight >= load.capacity) continue;
      EXPECT_TRUE(worker.fake->link.pinned.empty());
      EXPECT_EQ(dispatcher_->waiting(), 0u);
    }
  }
  bool all_ended() {
    return broadcasts_ == 0 && in_flight() == 0 && queued() == 0 &&
           std::none_of(callers_.begin(), callers_.end(), [](const auto& caller) { return caller->waits(); });
  }

  std::mt19937 random_{GetParam()};
  std::vector<Worker> workers_;
  int argument_ = 0, broadcasts_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Seeds, AnyOrder, testing::Range(0u, 100u));

TEST_P(AnyOrder, LeavesNoCallStuck) {
  dispatcher_->close();
  dispatcher_ =
      Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), std::nullopt, {.after = 3, .span = 5ms});
  for (int i = 0; i < 500 && !HasFailure(); ++i) {
    step();
    run();
    expect_none_stuck();
  }
  while (!workers_.empty()) die(0);
  add_worker();
  EXPECT_TRUE(run_until([&] {
    for (Worker& worker = workers_[0]; receive(worker), !worker.calls.empty(); expect_none_stuck()) {
      give_back(worker);
      answer(worker);
      run();
    }
    return all_ended();
  }));
  EXPECT_EQ(keys_in_use(), 0u);
}

TEST_F(Pinned, BroadcastWaitsForTheExitOfAWorkerThatDrains) {
  FakeWorker worker(context_, dispatcher_), other(context_, dispatcher_);
  call(1);
  call(2);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 3),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  close_link(worker);
  answer_all(other);
  answer_all(worker);
  EXPECT_TRUE(results.empty());
  EXPECT_EQ(queued(), 1u);
  worker.die();
  run();
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(std::count_if(results.begin(), results.end(), [](const auto& result) { return result.ok(); }), 1);
}

TEST_F(Pinned, BroadcastLeavesOutWorkersThatTakeNoCalls) {
  FakeWorker closed(context_, dispatcher_), open(context_, dispatcher_);
  close_link(closed);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 1),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  EXPECT_EQ(answer_all(open), std::vector{1});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].value(), 10);
}

asio::awaitable<void> broadcast_unthrown(std::shared_ptr<Dispatcher> dispatcher) {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await drover::detail::begin_broadcast<int>(dispatcher, {}, "f", 1);
}

TEST_F(Pinned, BroadcastIsCancelledAsOneWithoutThrowIfCancelled) {
  FakeWorker first(context_, dispatcher_), second(context_, dispatcher_);
  asio::cancellation_signal cancellation;
  std::exception_ptr thrown;
  asio::co_spawn(context_, broadcast_unthrown(dispatcher_),
                 asio::bind_cancellation_slot(cancellation.slot(), [&](std::exception_ptr how) { thrown = how; }));
  run();
  cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_NE(thrown, nullptr);
  EXPECT_EQ(first.cancelled.size() + second.cancelled.size(), 2u) << "each of the calls";
  answer_all(first);
  answer_all(second);
}

TEST_F(Pinned, BroadcastIsNotRetried) {
  FakeWorker worker(context_, dispatcher_);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_,
                 drover::detail::begin_broadcast<int>(dispatcher_, {.retry = {.attempts = 5, .backoff = 60s}}, "f", 2),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  worker.die();
  run();
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].ok());
}

TEST_F(Pinned, CallIsNotRetriedOnceCallsAreRefused) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 5}});
  const auto refuse = [&](drover::detail::Cause cause) {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse(std::move(cause));
  };
  refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  worker.die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited) << "what has happened to it says more than the stop";
  refuse(nullptr);
}

// ---- no memory ------------------------------------------------------------------------------------------------------

TEST_F(Pinned, KeyIsReleasedIfThereIsNoMemoryForItsCall) {
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 1, {.after = 1, .span = 60s});
  FakeWorker doomed(context_, dispatcher_);
  call(0, {.key = "poisoned"});
  doomed.die();
  run();
  FakeWorker worker(context_, dispatcher_);
  for (int i = 1; i <= 2; ++i) call(i);  // one waits, so that the queue is full
  for (const char* const key : {"poisoned", "a key that is too long to be kept within its string"}) {
    bool failed = true;
    for (long count = 0; failed; ++count) {
      auto request = dispatcher_->allocate_call();
      drover::Encoder encoder(request->request.buffer());
      encoder.put("f");
      encoder.put(7);
      const CallOptions options{.key = key};
      allowed = count;
      try {
        dispatcher_->submit(request, options);
      } catch (const std::bad_alloc&) {
      }
      failed = std::exchange(allowed, -1) < 0;
      EXPECT_EQ(keys_in_use(), 0u) << key << ", allocation " << count;
    }
  }
  EXPECT_EQ(answer_all(worker), (std::vector{1, 2}));
}

TEST_F(Pinned, CallOfAPoisonedKeyEndsWithoutMemoryForItsText) {
  bool failed = true;
  for (long count = 0; failed; ++count) {
    poison_after(1);
    FakeWorker doomed(context_, dispatcher_);
    call(1, with_key());
    close_link(doomed);
    FakeWorker home(context_, dispatcher_);
    call(2, with_key());
    Caller& poisoned = call(3, with_key());
    doomed.die();
    FakeWorker idle(context_, dispatcher_);
    EXPECT_EQ(queued(), 1u);
    allowed = count;
    close_link(home);
    failed = std::exchange(allowed, -1) < 0;
    EXPECT_EQ(queued(), 0u);
    dispatcher_->run_completions(true);
    run();
    EXPECT_FALSE(poisoned.waits()) << "allocation " << count;
    answer_all(home);
    EXPECT_EQ(keys_in_use(), 0u);
  }
}

}  // namespace
