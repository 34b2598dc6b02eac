// Calls with keys, priorities, retries and bounds, and broadcasts, in random orders of events.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <drover/pool/broadcast.hpp>

#include "support/pinned.hpp"

namespace {

using namespace support;
using drover::SlotResult;

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
  /// The worker begins the first of its calls that awaits that.
  void begin_in(Worker& worker) {
    for (Received& call : worker.calls) {
      if ((call.header.status & drover::detail::wants_begun_flag) == 0) continue;
      call.header.status = static_cast<std::uint8_t>(call.header.status & ~drover::detail::wants_begun_flag);
      EXPECT_TRUE(worker.fake->send({.type = FrameType::begun, .slot = call.header.slot, .id = call.header.id}));
      return;
    }
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
    if (event < 15) return give_back(worker);
    if (event == 15) return begin_in(worker);
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

}  // namespace
