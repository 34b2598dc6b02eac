#pragma once

#include <memory>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The executor of a ContextBound object, which closes it before the context is gone. Guarded by the object's mutex.
class BoundExecutor {
 public:
  explicit BoundExecutor(const asio::any_io_executor& executor)
      : registry_(ContextRegistry::of(asio::query(executor, asio::execution::context))) {}

  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return registry_; }
  /// Empty before open() and after close(). To be used under the registry's lock.
  const std::optional<asio::any_io_executor>& get() const noexcept { return executor_; }
  bool context_lives() const noexcept {
    const auto registry_lock = registry_->lock();
    return !registry_->closed();
  }

  void open(const asio::any_io_executor& executor) { executor_ = executor; }
  void close() noexcept { executor_.reset(); }

  /// False if the context is destroyed. Throws std::bad_alloc.
  template <class F>
  bool post(F function) {
    const auto registry_lock = registry_->lock();
    if (!executor_ || registry_->closed()) return false;
    asio::post(*executor_, std::move(function));
    return true;
  }

 private:
  const std::shared_ptr<ContextRegistry> registry_;
  std::optional<asio::any_io_executor> executor_;
};

}}}  // namespace drover::v1::detail
