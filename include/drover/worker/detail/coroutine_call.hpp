#pragma once

#include <memory>
#include <string_view>

#include <asio/cancellation_signal.hpp>

#include <drover/os/detail/descriptor_list.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/routine.hpp>
#include <drover/worker/detail/running_call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A call whose routine is a coroutine. It must outlive the coroutine's frame.
struct CoroutineCall {
  FrameHeader header;
  Routine* routine = nullptr;
  std::string_view name;  // refers to the body
  ByteBuffer body;
  DescriptorList descriptors;
  FrameBody result;
  asio::cancellation_signal cancellation;
  bool cancelled = false;
  std::shared_ptr<RunningCall> running;  // its executors refer to it, and may outlive the call
};

}}}  // namespace drover::v1::detail
