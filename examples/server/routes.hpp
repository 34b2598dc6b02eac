#pragma once

#include <charconv>
#include <chrono>
#include <cstdint>
#include <http_parser.h>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/drover.hpp>

#include "request.hpp"
#include "response.hpp"
#include "server/page.hpp"

struct Route {
  std::string_view path;
  unsigned method;
};
inline constexpr Route routes[] = {{"/", HTTP_GET},      {"/events", HTTP_GET},     {"/metrics", HTTP_GET},
                                   {"/hash", HTTP_POST}, {"/thumbnail", HTTP_POST}, {"/reload", HTTP_POST}};

inline unsigned status_of(const drover::Error& error) {
  if (error.code() == drover::Errc::deadline_exceeded) return HTTP_STATUS_GATEWAY_TIMEOUT;
  if (error.code() == drover::Errc::message_too_large) return HTTP_STATUS_PAYLOAD_TOO_LARGE;
  for (const drover::Errc code : {drover::Errc::overloaded, drover::Errc::pool_failed, drover::Errc::stopping})
    if (error.code() == code) return HTTP_STATUS_SERVICE_UNAVAILABLE;
  for (const drover::Errc code :
       {drover::Errc::worker_exited, drover::Errc::connection_lost, drover::Errc::protocol_error})
    if (error.code() == code) return HTTP_STATUS_BAD_GATEWAY;
  return HTTP_STATUS_INTERNAL_SERVER_ERROR;
}

inline Response response_to(const drover::Error& error) {
  Response response = text_response(status_of(error), error.what());
  if (response.status == HTTP_STATUS_SERVICE_UNAVAILABLE) response.fields = "Retry-After: 1\r\n";
  return response;
}

/// The result of a call. Whatever happens to the worker, it costs this request only.
inline asio::awaitable<Response> respond(asio::awaitable<std::string> call, std::string type) {
  try {
    Response response;
    response.type = std::move(type);
    response.body = co_await std::move(call);
    co_return response;
  } catch (const drover::RemoteError& error) {
    const bool clients_fault = error.type() == "std::invalid_argument";
    co_return text_response(clients_fault ? HTTP_STATUS_UNPROCESSABLE_ENTITY : HTTP_STATUS_INTERNAL_SERVER_ERROR,
                            error.what());
  } catch (const drover::Error& error) {
    co_return response_to(error);
  }
}

/// The parameter "size" of /thumbnail, 200 by default.
inline std::optional<std::uint32_t> thumbnail_size(const Request& request) {
  const std::string text = request.parameter("size");
  std::uint32_t size = 200;
  if (text.empty()) return size;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (error != std::errc() || end != text.data() + text.size() || size < 1 || size > 1024) return std::nullopt;
  return size;
}

inline std::string describe(const drover::ReloadReport& report) {
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(report.elapsed);
  std::string text =
      "replaced " + std::to_string(report.replaced) + " workers in " + std::to_string(took.count()) + " ms\n";
  for (const drover::StopReport& stop : report.stopped) text += "  " + stop.to_string() + '\n';
  return text;
}

inline asio::awaitable<Response> reload(drover::WorkerPool& pool, Request request) {
  // A page of another site must not make a browser do this. A server that others can reach needs more than that.
  const std::string_view origin = request.field("origin");
  if (!origin.empty() && !origin.ends_with("://" + std::string(request.field("host"))))
    co_return refusal(HTTP_STATUS_FORBIDDEN);
  try {
    const drover::ReloadReport report = co_await pool.reload();
    Response response;
    response.body = describe(report);
    co_return response;
  } catch (const drover::Error& error) {
    co_return response_to(error);
  }
}

/// Answers every request but GET /events, which is no single answer.
inline asio::awaitable<Response> answer(drover::WorkerPool& pool, drover::CallOptions options, Request request) {
  const Route* route = nullptr;
  for (const Route& each : routes)
    if (each.path == request.path) route = &each;
  if (route == nullptr) co_return refusal(HTTP_STATUS_NOT_FOUND);
  const bool only_head = request.method == HTTP_HEAD && route->method == HTTP_GET && route->path != "/events";
  if (request.method != route->method && !only_head) {
    Response response = refusal(HTTP_STATUS_METHOD_NOT_ALLOWED);
    response.fields = route->method == HTTP_GET ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n";
    co_return response;
  }

  if (route->path == "/metrics") {
    Response response;
    response.type = "text/plain; version=0.0.4";
    response.body = pool.metrics();
    co_return response;
  }
  if (route->path == "/hash") {
    auto result = respond(pool.call<std::string>(options, "sha256", std::move(request.body)), "text/plain");
    co_return co_await std::move(result);
  }
  if (route->path == "/thumbnail") {
    const std::optional<std::uint32_t> size = thumbnail_size(request);
    if (!size) co_return text_response(HTTP_STATUS_BAD_REQUEST, "size is a number from 1 to 1024");
    auto call = pool.call<std::string>(options, "thumbnail", std::move(request.body), *size);
    auto result = respond(std::move(call), "image/png");
    co_return co_await std::move(result);
  }
  if (route->path == "/reload") {
    auto result = reload(pool, std::move(request));
    co_return co_await std::move(result);
  }

  // Connection serves the events itself, unless they have come to their end.
  if (route->path == "/events") co_return refusal(HTTP_STATUS_SERVICE_UNAVAILABLE);

  Response response;
  response.type = "text/html; charset=utf-8";
  response.fields =
      "Cache-Control: no-store\r\n"
      "Content-Security-Policy: default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
      "style-src 'unsafe-inline'; frame-ancestors 'none'\r\n";
  response.body = page;
  co_return response;
}
