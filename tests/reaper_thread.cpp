// The reaper thread with clients that are no processes: the times that it keeps for them.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <semaphore>
#include <string>
#include <vector>

#include <drover/os/detail/reaper_thread.hpp>
#include <drover/timeout.hpp>

#include "support/busy_reaper.hpp"

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::detail::ReaperClient;
using drover::detail::ReaperThread;

ReaperThread& reaper() { return ReaperThread::get(); }

/// The processor time that the calling thread has used.
std::chrono::nanoseconds processor_time() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

/// The calls of the reaper thread, in order. It is complete after so many calls.
class Calls {
 public:
  explicit Calls(std::size_t expected) : expected_(expected) { calls_.reserve(expected); }

  void add(int name) {
    const std::lock_guard held(mutex_);
    if (calls_.empty()) first_ = processor_time();
    calls_.push_back(name);
    if (calls_.size() != expected_) return;
    last_ = processor_time();
    complete_.release();
  }

  std::vector<int> wait() {
    EXPECT_TRUE(complete_.try_acquire_for(60s));
    const std::lock_guard held(mutex_);
    return calls_;
  }
  /// The processor time from the first call to the last one, for each of them.
  std::chrono::nanoseconds cost_of_each() const { return (last_ - first_) / expected_; }

 private:
  const std::size_t expected_;
  std::mutex mutex_;
  std::vector<int> calls_;
  std::chrono::nanoseconds first_{}, last_{};
  std::binary_semaphore complete_{0};
};

/// A client of the reaper thread that records the calls of on_time().
class Client {
 public:
  enum class After { nothing, arm_again };

  Client(Calls& calls, int name, After after = After::nothing)
      : recorder_(std::make_shared<Recorder>(calls, name, after)) {
    recorder_->id = reaper().add(recorder_);
  }
  ~Client() { remove(); }
  Client(Client&&) noexcept = default;
  Client& operator=(Client&&) = delete;

  void arm(drover::detail::Deadline at) { reaper().arm(recorder_->id, at); }
  void remove() {
    if (recorder_) reaper().remove(recorder_->id);
    recorder_.reset();
  }

 private:
  struct Recorder final : ReaperClient {
    Recorder(Calls& to, int as, After then) : calls(to), name(as), after(then) {}
    void on_event(unsigned) noexcept override {}
    void on_time() noexcept override {
      if (after == After::arm_again) reaper().arm(id, Clock::now() + 1h);
      calls.add(name);
    }
    Clock::time_point at_exit() noexcept override { return Clock::now(); }
    Calls& calls;
    const int name;
    const After after;
    std::uint64_t id = 0;
  };

  std::shared_ptr<Recorder> recorder_;
};

TEST(ReaperThread, CallsTheClientsInTheOrderOfTheirTimes) {
  Calls calls(4);
  std::vector<Client> clients;
  for (int name = 0; name < 4; ++name) clients.emplace_back(calls, name);
  {
    const support::BusyReaper busy;
    const auto now = Clock::now();
    clients[0].arm(now + 3ms);
    clients[1].arm(now + 1ms);
    clients[2].arm(now + 4ms);
    clients[3].arm(now + 2ms);
  }
  EXPECT_EQ(calls.wait(), (std::vector{1, 3, 0, 2}));
}

// Of clients that are due earlier, one is disarmed, one armed for a later time, and one removed.
TEST(ReaperThread, CallsNoClientAtATimeThatWasChanged) {
  Calls calls(2);
  std::vector<Client> clients;
  for (int name = 0; name < 4; ++name) clients.emplace_back(calls, name);
  {
    const support::BusyReaper busy;
    const auto now = Clock::now();
    for (int name = 0; name < 3; ++name) clients[static_cast<std::size_t>(name)].arm(now);
    clients[3].arm(now + 5ms);
    clients[0].arm(std::nullopt);
    clients[1].arm(now + 10ms);
    clients[2].remove();
  }
  EXPECT_EQ(calls.wait(), (std::vector{3, 1}));
}

TEST(ReaperThread, CallsAClientOnceForEachTime) {
  Calls calls(6);
  Client repeated(calls, 0), last(calls, 1);
  for (int round = 0; round < 5; ++round) {
    const support::BusyReaper busy;
    repeated.arm(Clock::now());
  }
  last.arm(Clock::now() + 1ms);
  EXPECT_EQ(calls.wait(), (std::vector{0, 0, 0, 0, 0, 1}));
}

/// The processor time of the reaper thread for each of `count` clients that are due together, in a random order. Each
/// is armed again when it is called, as a child's escalation is for its next step.
std::chrono::nanoseconds cost_of_each_due(std::size_t count) {
  Calls calls(count);
  std::vector<Client> clients;
  for (std::size_t i = 0; i < count; ++i) clients.emplace_back(calls, static_cast<int>(i), Client::After::arm_again);
  {
    const support::BusyReaper busy;
    std::mt19937 random(7);
    const auto now = Clock::now();
    for (auto& client : clients) client.arm(now - std::chrono::nanoseconds(random() % 1000000));
  }
  EXPECT_EQ(calls.wait().size(), count);
  return calls.cost_of_each();
}

// With a scan of all clients for each one that is due, this grew as the number of clients did. The best of three, as
// other programs may disturb any of them.
TEST(ReaperThread, ManyDueTogetherCostLittleMoreEach) {
  std::chrono::nanoseconds few = 1h, many = 1h;
  for (int i = 0; i < 3; ++i) {
    few = std::min(few, cost_of_each_due(1000));
    many = std::min(many, cost_of_each_due(16000));
  }
  EXPECT_LT(many, 4 * few);
  RecordProperty("nanoseconds_each_of_1000", std::to_string(few.count()));
  RecordProperty("nanoseconds_each_of_16000", std::to_string(many.count()));
}

}  // namespace
