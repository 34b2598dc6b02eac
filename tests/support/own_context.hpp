#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <asio/execution.hpp>
#include <asio/execution_context.hpp>

namespace support {

/// A context that is not one of Asio's: poll() runs the functions that were executed before, and work() counts its
/// work. It belongs to the thread that creates it.
class OwnContext : public asio::execution_context {
 public:
  class Executor {
   public:
    Executor(OwnContext* context, bool tracks) : context_(context), tracks_(tracks) { count(1); }
    Executor(const Executor& other) noexcept : Executor(other.context_, other.tracks_) {}
    Executor& operator=(const Executor&) = delete;
    ~Executor() { count(-1); }

    asio::execution_context& query(asio::execution::context_t) const noexcept { return *context_; }
    static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) noexcept {
      return asio::execution::blocking.never;
    }
    Executor require(asio::execution::blocking_t::never_t) const noexcept { return *this; }
    Executor require(asio::execution::outstanding_work_t::tracked_t) const noexcept { return {context_, true}; }
    Executor require(asio::execution::outstanding_work_t::untracked_t) const noexcept { return {context_, false}; }
    asio::execution::outstanding_work_t query(asio::execution::outstanding_work_t) const noexcept {
      if (tracks_) return asio::execution::outstanding_work.tracked;
      return asio::execution::outstanding_work.untracked;
    }
    template <class F>
    void execute(F function) const {
      if (tracks_ && std::this_thread::get_id() != context_->thread_) ++context_->tracked_from_elsewhere_;
      auto shared = std::make_shared<F>(std::move(function));
      const std::lock_guard held(context_->mutex_);
      context_->queue_.push_back([shared] { std::move (*shared)(); });
    }
    bool operator==(const Executor& other) const noexcept = default;

   private:
    void count(int by) const noexcept {
      if (tracks_) context_->work_ += by;
    }
    OwnContext* context_;
    bool tracks_;
  };

  OwnContext() = default;
  ~OwnContext() {
    shutdown();
    queue_.clear();
    destroy();
  }

  Executor get_executor() { return {this, false}; }
  int work() const { return work_; }
  /// How often another thread had work of this context while it executed a function.
  int tracked_from_elsewhere() const { return tracked_from_elsewhere_; }
  /// Runs the functions that are queued by now.
  bool poll() {
    std::deque<std::function<void()>> ready;
    {
      const std::lock_guard held(mutex_);
      ready.swap(queue_);
    }
    for (auto& function : ready) function();
    return !ready.empty();
  }

 private:
  std::mutex mutex_;
  std::deque<std::function<void()>> queue_;
  std::atomic<int> work_ = 0, tracked_from_elsewhere_ = 0;
  const std::thread::id thread_ = std::this_thread::get_id();
};

}  // namespace support
