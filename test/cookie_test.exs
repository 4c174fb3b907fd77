defmodule EmbeddedEpmd.CookieTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Doctor.Cookie

  @node :"shop_api@db7.internal"

  for {why, cookie} <- [
        {"short", "x7Kq9"},
        {"fifteen characters", "x7Kq9LmP2vR8tYb"},
        {"published with CouchDB, RabbitMQ and others", "monster"},
        {"published with EMQX", "emqxsecretcookie"},
        {"made of words", "CHANGE_ME-secret-erlang-cookie"},
        {"the name of the node", "shop_api@db7.internal"},
        {"the name and a word", "shop-api-cookie"},
        {"one character", String.duplicate("a", 40)},
        {"nothing", "nocookie"}
      ] do
    test "weak: #{why}" do
      assert Cookie.weak?(unquote(String.to_atom(cookie)), @node)
    end
  end

  for {whose, cookie} <- [
        {"OTP's", "QWZKDHTNRYFBLXAVMUCJ"},
        {"that of mix release", "ZPVJ5W2KQ7MOYTBH3RNA4LXCDE6UGFIS5WKQ7MOYTBH3RNA4LXCDE6UG"},
        {"random characters behind the name", "shop_api-x7Kq9LmP2vR8tYb4"}
      ] do
    test "not weak: #{whose}" do
      refute Cookie.weak?(unquote(String.to_atom(cookie)), @node)
    end
  end
end
