#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/codec.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::exception_ptr empty_handle() {
  return std::make_exception_ptr(
      Error(Errc::not_running, "there is nothing here: it was default-constructed or moved from"));
}

DROVER_INLINE std::shared_ptr<Call> take_call(const std::shared_ptr<Dispatcher>& dispatcher,
                                              const CallOptions& options) {
  if (!dispatcher) std::rethrow_exception(empty_handle());
  check(options);
  return dispatcher->take_call();
}

DROVER_INLINE void submit(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, const CallOptions& options) {
  dispatcher.submit(call, options);
}

DROVER_INLINE void BegunCall::await(Emplacement& emplacement, const asio::any_io_executor& executor) {
  const std::shared_ptr<Call> call = std::exchange(call_, nullptr);
  if (!dispatcher_->attach(call, executor, emplacement)) dispatcher_->end(*call, CallEvent::cancelled, nullptr);
}

DROVER_INLINE void BegunCall::cancel_unawaited() { dispatcher_->end(*call_, CallEvent::cancelled, nullptr); }

DROVER_INLINE void BegunCall::cancel(std::shared_ptr<Call> call) {
  if (!call) return;
  if (const auto dispatcher = call->dispatcher.lock()) dispatcher->end(*call, CallEvent::cancelled, aborted());
}

}}}  // namespace drover::v1::detail
