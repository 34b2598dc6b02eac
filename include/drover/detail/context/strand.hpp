#pragma once

#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Brings functions to an executor from any thread, at any time: they run there one at a time and in order, even if
/// many threads serve the executor. Once the context is gone, so are they, silently.
class Courier final : public Resident, public std::enable_shared_from_this<Courier> {
 public:
  static std::shared_ptr<Courier> create(asio::any_io_executor executor) {
    auto home = Home::of(asio::query(executor, asio::execution::context));
    auto courier = std::shared_ptr<Courier>(new Courier(std::move(home), std::move(executor)));
    const auto held = courier->home_->lock();
    if (courier->home_->down())
      courier->executor_.reset();
    else
      courier->home_->move_in(courier);
    return courier;
  }

  /// False if the context is gone. Throws std::bad_alloc; then nothing has been taken.
  bool post(std::function<void()> function) {
    const std::lock_guard held(mutex_);
    if (!executor_) return false;
    queue_.push_back(std::move(function));
    if (under_way_) return true;
    try {
      send();
    } catch (...) {
      queue_.pop_back();
      throw;
    }
    under_way_ = true;
    return true;
  }

  /// All that was posted has run.
  bool idle() const {
    const std::lock_guard held(mutex_);
    return !under_way_;
  }

  /// Nothing more is taken; what has not run yet is dropped.
  void close() noexcept {
    evict();
    leave();
  }

 private:
  Courier(std::shared_ptr<Home> home, asio::any_io_executor executor)
      : home_(std::move(home)), executor_(std::move(executor)) {}

  // With mutex_ held.
  void send() {
    const auto held = home_->lock();
    if (home_->down()) return;
    asio::post(*executor_, [self = shared_from_this()] { self->run(); });
  }

  // What one throws goes to whoever runs the context, once the next turn has been posted. Without the memory for that
  // the turn goes on.
  void run() {
    std::exception_ptr thrown;
    do {
      try {
        turn();
      } catch (...) {
        if (!thrown) thrown = std::current_exception();
      }
    } while (!next_turn());
    if (thrown) std::rethrow_exception(thrown);
  }

  // False if it could not be posted.
  bool next_turn() noexcept {
    const std::lock_guard held(mutex_);
    under_way_ = !queue_.empty() && executor_;
    if (!under_way_) return true;
    try {
      send();
      return true;
    } catch (...) {
      return false;
    }
  }

  // All that were there when the turn began: what was handed over before something was posted runs before that.
  void turn() {
    std::size_t left = 0;
    {
      const std::lock_guard held(mutex_);
      left = queue_.size();
    }
    for (; left != 0; --left) {
      std::function<void()> function;
      {
        const std::lock_guard held(mutex_);
        if (queue_.empty()) return;  // closed meanwhile
        function = std::move(queue_.front());
        queue_.pop_front();
      }
      function();
    }
  }

  void leave() noexcept {
    std::shared_ptr<Resident> self;
    const auto held = home_->lock();
    self = home_->move_out(*this);
  }

  void evict() noexcept override {
    std::deque<std::function<void()>> dropped;
    std::optional<asio::any_io_executor> executor;
    const std::lock_guard held(mutex_);
    dropped.swap(queue_);
    executor.swap(executor_);
  }

  std::shared_ptr<Home> home_;
  mutable std::mutex mutex_;
  std::optional<asio::any_io_executor> executor_;  // empty: closed
  std::deque<std::function<void()>> queue_;
  bool under_way_ = false;  // one is posted, or runs
};

}}}  // namespace drover::v1::detail
