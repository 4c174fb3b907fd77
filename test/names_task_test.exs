defmodule EmbeddedEpmd.NamesTaskTest do
  use ExUnit.Case, async: true

  import Support.{Registration, Vm}

  alias Support.{Attacker, Project}

  @root Path.expand("..", __DIR__)

  test "a table, or JSON, of the host's nodes; an error when nobody answers" do
    port = free_port()
    {long, short} = {unique("a_long_name"), unique("b")}
    vm = start_ours(long, port)
    start_ours(short, port)
    ports = Map.new(stock_names(port), &{&1.name, &1.port})

    assert {text, 0} = names(["--port", "#{port}"])
    width = String.length(long)

    assert String.split(text, "\n", trim: true) == [
             String.pad_trailing("NAME", width) <> "   PORT  ADDRESS",
             long <> "  " <> String.pad_leading("#{ports[long]}", 5) <> "  127.0.0.1",
             String.pad_trailing(short, width) <> "  " <> String.pad_leading("#{ports[short]}", 5) <> "  127.0.0.1"
           ]

    assert {json, 0} = names(["localhost", "--json", "--port", "#{port}"])

    assert String.trim(json) ==
             ~s([{"name": "#{long}", "port": #{ports[long]}, "address": "127.0.0.1"}, ) <>
               ~s({"name": "#{short}", "port": #{ports[short]}, "address": "127.0.0.1"}])

    # ERL_EPMD_PORT is the default.
    assert {^text, 0} = names([], [{"ERL_EPMD_PORT", "#{port}"}])

    nobody = free_port()
    assert {text, 1} = names(["--port", "#{nobody}"])
    assert text =~ "no EPMD answers at 127.0.0.1, port #{nobody}: connection refused"

    for sentence <- [[], ["220 mail.example ESMTP\r\n"]] do
      stranger = Attacker.answers(sentence)
      assert {text, 1} = names(["--port", "#{stranger}"])
      assert text =~ "port #{stranger}: whoever answers there is no EPMD, or refuses to tell"
    end

    assert call(vm, EmbeddedEpmd, :status).role == :serving
  end

  test "names of any bytes control no terminal, and are valid JSON" do
    names = ["a\e[2J", "b\u202Ec", <<"caf", 0xE9>>, "d\"\\", String.duplicate("e", 255)]
    port = Attacker.answers([Attacker.listing(names)])

    assert {text, 0} = names(["--port", "#{port}"])
    assert String.printable?(text)
    # One long name does not make the other lines long.
    assert [_, "a\\x1B[2J" <> rest, "b\\xE2\\x80\\xAEc  " <> _, "caf\\xE9  " <> _, ~S(d"\  ) <> _, long] = lines(text)
    assert String.length(rest) < 100
    assert long == String.duplicate("e", 255) <> "   4711  127.0.0.1"

    assert {json, 0} = names(["--json", "--port", "#{port}"])

    quoted = [~S("a\u001B[2J"), ~S("b\u202Ec"), ~S("caf\\xE9"), ~S("d\"\\"), ~s("#{String.duplicate("e", 255)}")]
    objects = for name <- quoted, do: ~s({"name": #{name}, "port": 4711, "address": "127.0.0.1"})
    assert lines(json) == ["[" <> Enum.join(objects, ", ") <> "]"]
  end

  test "an EPMD that does not end its list is told" do
    port = Attacker.answers(Attacker.endless(Attacker.listing(["a"])))
    assert {text, 1} = names(["--port", "#{port}"])
    assert text =~ "no EPMD answers at 127.0.0.1, port #{port}: the listing is longer than 16 MiB"
  end

  test "--watch shows each change, and who owns the port and stands by; no colours where there is no terminal" do
    port = free_port()
    [first, second] = [unique("a"), unique("b")]
    watch = watch(["--port", "#{port}"])
    says(watch, "no EPMD answers at 127.0.0.1, port #{port}: connection refused\n")

    vm = start_ours(first, port)
    says(watch, ~r/^NAME +PORT  ADDRESS    USER  ROLE\n#{first} .*  127\.0\.0\.1 +\d+  owner\n$/m)
    start_ours(second, port)
    says(watch, ~r/^#{first} .* owner\n#{second} .*  127\.0\.0\.1 +\d+  standby\n$/m)
    kill(vm)
    shown = says(watch, ~r/ROLE\n#{second} .*  127\.0\.0\.1 +\d+  owner\ngone at [\d:]+: #{first}, port \d+\n$/m)
    refute shown =~ "\e["
  end

  test "--watch tells who has just gone, also who came and went in between" do
    port = free_port()
    start_ours(unique("owner"), port)
    {before, _} = register("before", port)
    :ok = :gen_tcp.close(before)
    watch = watch(["--port", "#{port}"])
    says(watch, ~r/^NAME /m)
    {short, _} = register("short", port)
    :ok = :gen_tcp.close(short)
    said = says(watch, ~r/^gone at \d\d:\d\d:\d\d: short, port 4711$/m)
    refute said =~ "before"
    # The same again, while nobody else leaves, and another one.
    {short, _} = register("short", port, node_port: 4712)
    :ok = :gen_tcp.close(short)
    says(watch, ~r/^gone at [\d:]+: short, port 4712\ngone at [\d:]+: short, port 4711$/m)
  end

  for {left, before, new} <- [
        {[1, 2, 3], [1, 2], [3]},
        {[2, 1], [1, 2], [1]},
        {[3], [1, 2, 3], []},
        {[2, 3], [1, 2], [3]},
        {[], [1], []}
      ] do
    test "of #{inspect(left)} after #{inspect(before)}, #{inspect(new)} left" do
      assert Mix.Tasks.EmbeddedEpmd.Names.new(unquote(left), unquote(before)) == unquote(new)
    end
  end

  test "--watch --json tells an empty list from none" do
    port = free_port()
    watch = watch(["--json", "--port", "#{port}"])
    says(watch, ~r/^null\n\z/m)
    daemon = start_daemon(port)
    says(watch, ~r/^\[\]\n\z/m)
    {_, 0} = System.cmd("kill", ["-9", daemon])
    says(watch, ~r/^null\n\z/m)
  end

  test "a bad ERL_EPMD_PORT is a sentence" do
    assert {text, 1} = names([], [{"ERL_EPMD_PORT", "99999"}])
    assert text =~ ~s{** (Mix) embedded_epmd: ERL_EPMD_PORT (-epmd_port) must be a port from 1 to 65535, got: "99999"}
    refute text =~ ".ex:"
  end

  # Starts the task as a port. Its input ends with this process, and it ends with the test.
  defp watch(arguments) do
    mix = System.find_executable("mix")
    options = [:binary, :stderr_to_stdout, cd: @root, args: ["embedded_epmd.names", "--watch" | arguments]]
    environment = for {name, value} <- Project.here(), do: {to_charlist(name), to_charlist(value)}
    port = Port.open({:spawn_executable, mix}, [{:env, environment} | options])
    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true) end)
    port
  end

  defp says(watch, sentence, said \\ "") do
    if said =~ sentence do
      said
    else
      receive do
        {^watch, {:data, text}} -> says(watch, sentence, said <> text)
      after
        30_000 -> flunk("#{inspect(sentence)} was expected, and came: #{said}")
      end
    end
  end

  defp lines(text), do: String.split(text, "\n", trim: true)

  defp names(arguments, environment \\ []) do
    System.cmd("mix", ["embedded_epmd.names" | arguments],
      cd: @root,
      env: Project.here() ++ environment,
      stderr_to_stdout: true
    )
  end
end
