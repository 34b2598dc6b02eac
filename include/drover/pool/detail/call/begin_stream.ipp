#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/execution.hpp>
#include <asio/prefer.hpp>

#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call_stream.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/map_window.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Tells a stream that its call has ended.
class StreamCompletion final : public Completion {
 public:
  StreamCompletion(std::shared_ptr<CallStream> stream, const asio::any_io_executor& executor)
      : stream_(std::move(stream)), work_(asio::prefer(executor, asio::execution::outstanding_work.tracked)) {}
  ~StreamCompletion() override {
    if (stream_) stream_->end(lost_context());
  }

  void post(std::shared_ptr<Call> call) override { Call::enqueue_completion(std::move(call), work_); }

  void resume(std::shared_ptr<Call> call, Outcome& outcome) override {
    const asio::any_io_executor work = std::move(work_);
    const auto stream = std::exchange(stream_, nullptr);
    std::exception_ptr failure = take_failure(*call, outcome);  // first: it may read the body
    stream->end(std::move(failure), call->take_body());
    Call::give_back(std::move(call));  // destroys this object
  }

 private:
  std::shared_ptr<CallStream> stream_;
  asio::any_io_executor work_;
};

DROVER_INLINE void CallStream::begin(PendingCall call) {
  if (call.failure()) return end(call.failure());
  const asio::any_io_executor executor = executor_of(dispatcher_);
  {
    const std::lock_guard held(mutex_);
    call_ = call.call();
  }
  try {
    call.await(call.construct_completion<StreamCompletion>(shared_from_this(), executor), {}, executor);
  } catch (...) {  // no memory
    end(std::current_exception());
  }
}

DROVER_INLINE std::shared_ptr<CallStream> begin_stream(const std::shared_ptr<Dispatcher>& dispatcher,
                                                       const CallOptions& options, RoutineName routine,
                                                       ArgumentWriter writer, std::uint8_t flags,
                                                       const char* declaration) {
  auto stream = std::make_shared<CallStream>(dispatcher, flags, declaration);
  if (has_context(dispatcher))
    stream->begin(
        send_call(dispatcher, options, routine, writer, {.declaration = declaration, .stream = stream.get()}));
  else
    stream->end(lost_context());
  return stream;
}

}}}  // namespace drover::v1::detail
