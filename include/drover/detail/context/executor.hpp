#pragma once

#include <utility>

#include <asio/execution.hpp>
#include <asio/execution_context.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Knows a context and nothing else: it tracks no work, and what it executes runs where it is.
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
