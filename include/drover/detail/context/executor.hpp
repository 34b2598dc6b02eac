#pragma once

#include <utility>

#include <asio/execution.hpp>
#include <asio/execution_context.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// An executor that only refers to a context. It tracks no work, and execute() runs a function at once on the calling
/// thread.
class ContextExecutor {
 public:
  explicit ContextExecutor(asio::execution_context& context) noexcept : context_(&context) {}

  asio::execution_context& query(asio::execution::context_t) const noexcept { return *context_; }

  template <class F>
  void execute(F function) const {
    std::move(function)();
  }

  friend bool operator==(const ContextExecutor& a, const ContextExecutor& b) noexcept = default;

 private:
  asio::execution_context* context_;
};

}}}  // namespace drover::v1::detail
