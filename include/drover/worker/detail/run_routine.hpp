#pragma once

#include <algorithm>
#include <cstddef>
#include <cxxabi.h>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

#include <asio/error.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/routine.hpp>
#include <drover/worker/detail/type_name.hpp>

/// Builds the body of RESULT for a call that has no result value.
namespace drover { inline namespace v1 { namespace detail {

/// The body does not get larger than `limit`, or least_max_body if that is more, however long the texts are.
inline void encode_texts(FrameBody& body, std::size_t limit, std::initializer_list<std::string_view> texts) {
  limit = std::max(limit, least_max_body);
  constexpr std::size_t overhead = 16;  // of an encoded text, at most
  body.clear();
  Encoder encoder(body.buffer());
  for (const std::string_view text : texts) {
    const std::size_t used = body.size() + overhead * texts.size();
    encoder.put(text.substr(0, std::min(longest_error_text, limit > used ? limit - used : 0)));
  }
}

/// Encodes type and text of the exception that is being handled. The type gets that prefix.
inline void encode_type_and_text(FrameBody& body, std::size_t limit, std::string_view prefix = {}) {
  const auto type = [&] { return std::string(prefix) + current_exception_type(); };
  try {
    throw;
  } catch (const std::exception& e) {
    encode_texts(body, limit, {type(), what_of(e)});
#ifdef __GLIBCXX__
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being terminated, which cannot be stopped here
#endif
  } catch (...) {
    encode_texts(body, limit, {type(), ""});
  }
}

/// Encodes the exception that is being handled. `cancelled`: the call was cancelled, so it may end with
/// operation_aborted.
inline ResultStatus encode_exception(FrameBody& body, std::size_t limit, std::string_view name, const Routine& routine,
                                     bool cancelled) {
  const auto remote = [&] {
    encode_type_and_text(body, limit);
    return ResultStatus::remote_error;
  };
  try {
    throw;
  } catch (const BadArguments& e) {
    encode_texts(body, limit, {std::string(name) + routine.parameters() + " was given other arguments: " + what_of(e)});
    return ResultStatus::bad_arguments;
  } catch (const std::system_error& e) {
    if (!cancelled || e.code() != asio::error::operation_aborted) return remote();
    encode_texts(body, limit, {std::string(name) + " was cancelled"});
    return ResultStatus::cancelled;
  } catch (const UnwantedDescriptor&) {
    encode_texts(body, limit,
                 {"the result of " + std::string(name) +
                  " has descriptors, and the type of the result that the caller asked for has none"});
    return ResultStatus::bad_arguments;
  } catch (...) {
    return remote();
  }
}

/// Runs `step`, which leaves a result in `body`. Any failure becomes an answer as well, even with no memory left.
template <class Step>
ResultStatus run_and_encode(FrameBody& body, std::size_t limit, std::string_view name, const Routine& routine,
                            const bool& cancelled, Step step) {
  try {
    try {
      step();
      if (body.counted_size() <= limit) return ResultStatus::ok;
      const std::string size = std::to_string(body.counted_size());
      encode_texts(body, limit,
                   {"the result of " + std::string(name) + " takes " + size + " bytes, where at most " +
                    std::to_string(limit) + " are allowed"});
      return ResultStatus::message_too_large;
    } catch (...) {
      return encode_exception(body, limit, name, routine, cancelled);
    }
  } catch (const std::bad_alloc&) {
    encode_texts(body, limit, {"std::bad_alloc", "out of memory"});
    return ResultStatus::remote_error;
  }
}

}}}  // namespace drover::v1::detail
