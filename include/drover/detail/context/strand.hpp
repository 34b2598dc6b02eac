#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Posts functions to an executor from any thread, at any time. They run there one at a time and in order, even if many
/// threads run the executor. When the context is destroyed, they are dropped silently.
class ContextStrand final : public ContextBound, public std::enable_shared_from_this<ContextStrand> {
 public:
  static std::shared_ptr<ContextStrand> create(asio::any_io_executor executor) {
    auto registry = ContextRegistry::of(asio::query(executor, asio::execution::context));
    auto strand = std::shared_ptr<ContextStrand>(new ContextStrand(std::move(registry), std::move(executor)));
    const auto held = strand->registry_->lock();
    if (strand->registry_->closed())
      strand->executor_.reset();
    else
      strand->registry_->add(strand);
    return strand;
  }

  /// Returns false if the context is destroyed or the strand is closed. Throws std::bad_alloc; the function is then not
  /// queued.
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

  /// True if all posted functions have run.
  bool idle() const {
    const std::lock_guard held(mutex_);
    return !under_way_;
  }

  /// Takes no more functions, and drops those that have not run yet.
  void close() noexcept {
    context_destroyed();
    leave();
  }

 private:
  ContextStrand(std::shared_ptr<ContextRegistry> registry, asio::any_io_executor executor)
      : registry_(std::move(registry)), executor_(std::move(executor)) {}

  // With mutex_ held.
  void send() {
    const auto held = registry_->lock();
    if (registry_->closed()) return;
    asio::post(*executor_, [self = shared_from_this()] { self->run(); });
  }

  // Exceptions of functions propagate to the thread that runs the context, after the next turn has been posted. If
  // there is no memory for that post, the next turn runs here.
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

  // Returns false if the next turn could not be posted.
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

  // Runs the functions that were queued when the turn began, so that functions queued earlier run before handlers
  // posted later.
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
    std::shared_ptr<ContextBound> self;
    const auto held = registry_->lock();
    self = registry_->remove(*this);
  }

  void context_destroyed() noexcept override {
    std::list<std::function<void()>> dropped;
    std::optional<asio::any_io_executor> executor;
    const std::lock_guard held(mutex_);
    dropped.swap(queue_);
    executor.swap(executor_);
  }

  std::shared_ptr<ContextRegistry> registry_;
  mutable std::mutex mutex_;
  std::optional<asio::any_io_executor> executor_;  // empty: closed
  std::list<std::function<void()>> queue_;
  bool under_way_ = false;  // a turn is posted or running
};

}}}  // namespace drover::v1::detail
