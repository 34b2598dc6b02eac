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

/// Refers to an executor, a pool's for example, whose context may be destroyed first.
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
    // The lock keeps the context from being destroyed meanwhile. If the anchor is no longer registered, the destruction
    // of the context resets its executor.
    const auto held = registry_->lock();
    if (registry_->remove(*anchor_)) anchor_->executor.reset();
  }

  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return registry_; }

  /// Call it on the executor only.
  asio::any_io_executor executor() const { return *anchor_->executor; }

  /// Posts a function to the executor; does nothing if the context is destroyed. The function must not be the only
  /// owner of anything, since it may be destroyed at once, under the registry's lock.
  template <class F>
  void post(F function) {
    const auto held = registry_->lock();
    if (!registry_->closed()) asio::post(*anchor_->executor, std::move(function));
  }

 private:
  /// Holds the copy of the executor, which must not outlive the context.
  struct Anchor final : ContextBound {
    explicit Anchor(asio::any_io_executor e) : executor(std::move(e)) {}
    void context_destroyed() noexcept override { executor.reset(); }

    std::optional<asio::any_io_executor> executor;
  };

  std::shared_ptr<ContextRegistry> registry_;
  std::shared_ptr<Anchor> anchor_;
};

}}}  // namespace drover::v1::detail
