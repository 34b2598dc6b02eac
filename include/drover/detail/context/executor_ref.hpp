#pragma once

#include <memory>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/execution_context.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The pool's executor, whose context may go first.
class ContextExecutorRef {
 public:
  explicit ContextExecutorRef(const asio::any_io_executor& executor)
      : registry_(ContextRegistry::of(asio::query(executor, asio::execution::context))),
        anchor_(std::make_shared<Anchor>(executor)) {
    const auto held = registry_->lock();
    if (!registry_->closed()) registry_->add(anchor_);
  }
  ContextExecutorRef(const ContextExecutorRef&) = delete;
  ContextExecutorRef& operator=(const ContextExecutorRef&) = delete;
  ~ContextExecutorRef() {
    // Under the lock, so that the context can't go meanwhile. No longer listed: its eviction sees to it.
    const auto held = registry_->lock();
    if (registry_->remove(*anchor_)) anchor_->executor.reset();
  }

  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return registry_; }

  /// Only on the executor.
  asio::any_io_executor executor() const { return *anchor_->executor; }

  /// On the executor, or not at all if its context is gone. The function must not own anything alone: it may be
  /// destroyed here and now, under the home's lock.
  template <class F>
  void post(F function) {
    const auto held = registry_->lock();
    if (!registry_->closed()) asio::post(*anchor_->executor, std::move(function));
  }

 private:
  /// A copy of the executor may not outlive the context.
  struct Anchor final : ContextBound {
    explicit Anchor(asio::any_io_executor e) : executor(std::move(e)) {}
    void context_destroyed() noexcept override { executor.reset(); }

    std::optional<asio::any_io_executor> executor;
  };

  std::shared_ptr<ContextRegistry> registry_;
  std::shared_ptr<Anchor> anchor_;
};

}}}  // namespace drover::v1::detail
