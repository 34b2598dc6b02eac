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
      Error(Errc::not_running, "this worker or pool object is empty (default-constructed or moved from)"));
}

DROVER_INLINE std::shared_ptr<Call> allocate_call(const std::shared_ptr<Dispatcher>& dispatcher,
                                                  const CallOptions& options) {
  if (!dispatcher) std::rethrow_exception(empty_handle());
  check(options);
  return dispatcher->allocate_call();
}

DROVER_INLINE void submit(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, const CallOptions& options) {
  dispatcher.submit(call, options);
}

DROVER_INLINE void PendingCall::await(Completion* completion, const asio::any_io_executor& executor) {
  const std::shared_ptr<Call> call = std::exchange(call_, nullptr);
  if (dispatcher_->set_completion(call, executor, completion)) return;
  call->destroy(completion);  // its context is destroyed
  dispatcher_->cancel(*call, CallEvent::cancelled, nullptr);
}

DROVER_INLINE void PendingCall::cancel_unawaited() { dispatcher_->cancel(*call_, CallEvent::cancelled, nullptr); }

DROVER_INLINE void PendingCall::cancel(std::shared_ptr<Call> call) {
  if (!call) return;
  if (const auto dispatcher = call->dispatcher.lock()) dispatcher->cancel(*call, CallEvent::cancelled, aborted());
}

}}}  // namespace drover::v1::detail
