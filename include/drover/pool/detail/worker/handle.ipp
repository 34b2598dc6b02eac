#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE WorkerHandle::WorkerHandle(const asio::any_io_executor& executor, WorkerOptions options, bool takes_calls)
    : dispatcher_(Dispatcher::create(executor, options, std::nullopt)),
      events_(EventSink::create(executor, options.on_event.value())) {
  dispatcher_->refuse([what = "worker '" + options.name + "' is not running; await start() first"] {
    return std::make_exception_ptr(Error(Errc::not_running, what));
  });
  core_ = WorkerCore::create(executor, std::move(options), dispatcher_, events_,
                             {.takes_calls = takes_calls, .solo = true});
}

DROVER_INLINE void WorkerHandle::let_go() noexcept {
  if (core_ && !core_->foreign()) {  // in a forked copy of the program the worker is not ours
    if (events_) events_->close();
    core_->abandon();
    dispatcher_->close();
  }
  core_.reset();
}

DROVER_INLINE std::exception_ptr WorkerHandle::refusal() const {
  if (!core_) return empty_handle();
  return core_->foreign() ? forked_copy() : nullptr;
}

inline asio::awaitable<void> start_and_wait(std::shared_ptr<WorkerCore> core, Timeout timeout) {
  if (!core) std::rethrow_exception(empty_handle());
  if (core->foreign()) std::rethrow_exception(forked_copy());
  core->begin_start(timeout);
  co_await WorkerCore::await_start(core);
}

inline asio::awaitable<WorkerMetadata> start_and_introduce(std::shared_ptr<WorkerCore> core, Timeout timeout) {
  co_await start_and_wait(core, timeout);
  co_return *core->metadata();
}

}}}  // namespace drover::v1::detail
