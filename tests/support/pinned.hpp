#pragma once

#include <memory>
#include <vector>

#include "support/fake_worker.hpp"

/// What tests of calls that wait for one certain worker need.
namespace support {

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

}  // namespace support
