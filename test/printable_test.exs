defmodule EmbeddedEpmd.PrintableTest do
  # What others choose, such as names, is printed so that it controls no terminal, forges no line and hides nothing.
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Boot.{Log, Printable}
  alias EmbeddedEpmd.Doctor
  alias EmbeddedEpmd.Doctor.{LookUp, Owner}

  # The names of OTP's daemon, and the texts that show them.
  @cases [
    {"app_1", "app_1"},
    {"прод-日本-é", "прод-日本-é"},
    {"a b\\x\"", "a b\\x\""},
    {"\e[2J\e]0;title\a", "\\x1B[2J\\x1B]0;title\\x07"},
    {"a\nname b at port 1\r\t\0\d", "a\\x0Aname b at port 1\\x0D\\x09\\x00\\x7F"},
    # C1, the end of a line, the direction of text, no width, a tag.
    {<<0x9B::utf8, "31m">>, "\\xC2\\x9B31m"},
    {"a\u2028b", "a\\xE2\\x80\\xA8b"},
    {"a\u202Ecba\u2066", "a\\xE2\\x80\\xAEcba\\xE2\\x81\\xA6"},
    {"a\u200Bb\uFEFF", "a\\xE2\\x80\\x8Bb\\xEF\\xBB\\xBF"},
    {<<0xE0041::utf8>>, "\\xF3\\xA0\\x81\\x81"},
    # No UTF-8: Latin-1, half a character, a surrogate, a form that is too long.
    {<<"caf", 0xE9>>, "caf\\xE9"},
    {<<0xE6, 0x97>>, "\\xE6\\x97"},
    {<<0xED, 0xA0, 0x80>>, "\\xED\\xA0\\x80"},
    {<<0xC0, 0x8A>>, "\\xC0\\x8A"}
  ]

  test "as text" do
    for {bytes, text} <- @cases do
      assert Printable.text(bytes) == text
      assert Printable.text(text) == text
    end
  end

  test "any bytes are printable text and a string of JSON, from which a program gets the characters back" do
    every = for byte <- 0..255, do: <<byte>>
    pairs = for high <- 0x80..0xFF, low <- 0..255, do: <<high, low>>
    characters = for chars <- Enum.chunk_every(Enum.concat(0..0xD7FF, 0xE000..0x10FFFF), 256), do: List.to_string(chars)

    for bytes <- Enum.map(@cases, &elem(&1, 0)) ++ every ++ pairs ++ characters do
      text = Printable.text(bytes)
      json = Printable.json(bytes)
      assert String.valid?(text) and text =~ ~r/\A[^\p{Cc}\p{Zl}\p{Zp}\x{ad}\x{200b}-\x{200f}\x{202a}-\x{202e}]*\z/u
      # The grammar of RFC 8259, which allows more.
      assert String.valid?(json) and json =~ ~r/\A"([^"\\\p{Cc}\p{Zl}\p{Zp}]|\\["\\]|\\u[0-9A-F]{4})*"\z/u
      assert Printable.text(parsed(json)) == text
      assert not String.valid?(bytes) or parsed(json) == bytes
    end
  end

  test "in the log" do
    report = %{what: "registration\nrefused", name: "a\u202Ecba", peer: "127.0.0.1:1"}
    {format, arguments} = Log.format(report)

    assert to_string(:io_lib.format(format, arguments)) ==
             "embedded_epmd: registration\\x0Arefused name=a\\xE2\\x80\\xAEcba peer=127.0.0.1:1"
  end

  test "by the doctor" do
    names = {:ok, [{"a\e[2J", 1}, {<<"caf", 0xE9>>, 2}]}
    facts = %{look_up: nil, node: :nonode@nohost, names: names, port: 4369, host: {"host", {:error, :nxdomain}}}
    holder = %{program: "\e]0;x\n", pid: "7", user: 65_534, inodes: ["1"]}
    sockets = [%{inode: "1", user: 65_534}]
    owner = %{sockets: sockets, holders: [holder], unregistered: [], port: 4369, names: names, linux: true}
    text = Doctor.format(LookUp.judge(facts) ++ Owner.judge(owner))

    assert text =~ "ok       Registered on port 4369: a\\x1B[2J, caf\\xE9.\n"

    assert text =~
             "warning  \\x1B]0;x\\x0A (pid 7, user id 65534) has port 4369, and is neither an Erlang VM nor epmd.\n"

    refute text =~ "\e"
  end

  # What a program reads that knows JSON.
  defp parsed(json) do
    json
    |> binary_part(1, byte_size(json) - 2)
    |> then(&Regex.replace(~r/((?:\\u[0-9A-F]{4})+)|\\(["\\])/, &1, fn _, units, char -> char <> characters(units) end))
  end

  defp characters(units) do
    units |> String.replace("\\u", "") |> Base.decode16!() |> :unicode.characters_to_binary(:utf16)
  end
end
