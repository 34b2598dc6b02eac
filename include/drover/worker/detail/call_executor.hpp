#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <asio/execution.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>
#include <asio/require.hpp>
#include <asio/version.hpp>
#if ASIO_VERSION < 102400
#include <asio/execution/execute.hpp>
#endif

#include <drover/worker/detail/running_call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The executor of a routine that is a coroutine: the loop's, and while its functions run, the coroutine's call is the
/// one that runs on this thread. Coroutines that are spawned on it inherit that. Once the call has ended, its functions
/// run without a call.
///
/// Properties are those of the inner executor.
template <class Inner>
class CallExecutor {
 public:
  CallExecutor(Inner inner, std::shared_ptr<RunningCall> call) noexcept
      : inner_(std::move(inner)), call_(std::move(call)) {}

  template <class Function>
  void execute(Function&& function) const {
    InCall<std::decay_t<Function>> in_call{call_, std::forward<Function>(function)};
#if ASIO_VERSION < 102400
    asio::execution::execute(inner_, std::move(in_call));  // the member function may be private there
#else
    inner_.execute(std::move(in_call));
#endif
  }

  template <class Property>
    requires(asio::can_query<const Inner&, Property>::value)
  auto query(const Property& property) const noexcept(asio::is_nothrow_query<const Inner&, Property>::value)
      -> std::conditional_t<std::is_convertible_v<Property, asio::execution::blocking_t>, asio::execution::blocking_t,
                            typename asio::query_result<const Inner&, Property>::type> {
    return asio::query(inner_, property);
  }

  template <class Property>
    requires(asio::can_require<const Inner&, Property>::value)
  auto require(const Property& property) const {
    return with(asio::require(inner_, property));
  }

  template <class Property>
    requires(asio::can_prefer<const Inner&, Property>::value)
  auto prefer(const Property& property) const {
    return with(asio::prefer(inner_, property));
  }

  friend bool operator==(const CallExecutor& a, const CallExecutor& b) noexcept {
    return a.call_ == b.call_ && a.inner_ == b.inner_;
  }
  friend bool operator!=(const CallExecutor& a, const CallExecutor& b) noexcept { return !(a == b); }

 private:
  template <class Function>
  struct InCall {
    std::shared_ptr<RunningCall> call;
    Function function;

    void operator()() {
      const ResumedCallScope here(call->has_ended() ? nullptr : call.get());
      function();
    }
  };

  template <class Other>
  CallExecutor<std::decay_t<Other>> with(Other&& inner) const {
    return {std::forward<Other>(inner), call_};
  }

  Inner inner_;
  std::shared_ptr<RunningCall> call_;
};

}}}  // namespace drover::v1::detail
