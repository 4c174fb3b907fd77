defmodule EmbeddedEpmd.ConfigTest do
  use ExUnit.Case, async: true

  import Support.Vm, only: [eventually: 1, free_port: 0, hold: 1]

  alias EmbeddedEpmd.Boot.Config

  describe "load/1" do
    test "has a default for everything" do
      assert %{
               addresses: [],
               relaxed: false,
               remote_names: false,
               health: false,
               allow: nil,
               request_deadline: 10_000
             } = Config.load()
    end

    test "takes options" do
      config = Config.load(addresses: "127.0.0.1, ::1", allow: ["10.0.0.0/8"], request_deadline: 500)

      assert %{addresses: ["127.0.0.1", "::1"], allow: ["10.0.0.0/8"], request_deadline: 500} = config

      assert %{addresses: ["10.0.0.5"]} = Config.load(addresses: [{10, 0, 0, 5}])
    end

    test "tells users by numbers from users by names" do
      assert %{trusted_users: ["prod", "1001"], trusted_groups: ["100"]} =
               Config.load(hand_over: [users: ["prod", 1001], groups: [100]])

      # As vm.args and an Erlang configuration have them.
      assert %{trusted_users: ["prod", "1001"]} = Config.load(hand_over: [users: [~c"prod", 1001]])

      for {names, normal} <- [
            {[{"a", "prod"}, {"b_*", ["prod", 1001]}, {"c", 1001}, {"d", [1001, 1002]}],
             [{"a", ["prod"]}, {"b_*", ["prod", "1001"]}, {"c", ["1001"]}, {"d", ["1001", "1002"]}]},
            {[{~c"a", ~c"prod"}, {~c"b", [~c"prod", 1001]}, {~c"c", 1001}],
             [{"a", ["prod"]}, {"b", ["prod", "1001"]}, {"c", ["1001"]}]}
          ] do
        assert Config.load(reserved_names: names).reserved_names == normal
      end
    end

    test "names the setting, what is expected and what came" do
      for {option, value, expected} <- [
            {:port, 0, "the option port must be a port from 1 to 65535, got: 0"},
            {:port, "x", "the option port must be a port from 1 to 65535, got: \"x\""},
            {:addresses, ["localhost"], "must be IPv4 and IPv6 addresses, got: \"localhost\""},
            {:addresses, 7, "must be IPv4 and IPv6 addresses, got: 7"},
            {:relaxed, 2, "the option relaxed must be true or false, got: 2"},
            {:allow, 10, "the option allow must be networks such as \"10.0.0.0/8\", got: 10"},
            {:hand_over, [user: ["prod"]], "such as [users: [\"prod\"], groups: [\"epmd\"]], got: "},
            {:reserved_names, %{"prod" => "prod"},
             "the option reserved_names must be a list of nodes' names or patterns"},
            {:reserved_names, [{"prod", []}], "got: {<<\"prod\">>,[]}"},
            {:reserved_names, [{"prod", ["prod", nil]}], "got: {<<\"prod\">>,[<<\"prod\">>,nil]}"},
            {:reserved_names, [prod: "prod"], "got: {prod,<<\"prod\">>}"},
            {:request_deadline, 5, "must be milliseconds from 100 to 600000, got: 5"},
            {:prot, 1, "did you mean port?, got: prot"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(expected)}/, fn ->
          Config.load([{option, value}])
        end
      end
    end
  end

  describe "while the VM boots" do
    test "a bad value stops it with one sentence" do
      assert {text, 1} = boot([{"ERL_EPMD_PORT", "99999"}])

      assert text ==
               "embedded_epmd: ERL_EPMD_PORT (-epmd_port) must be a port from 1 to 65535, got: \"99999\"\n"

      assert {text, 1} = boot([{"ERL_EPMD_ADDRESS", "localhost"}])

      assert text ==
               "embedded_epmd: ERL_EPMD_ADDRESS must be IPv4 and IPv6 addresses, got: \"localhost\"\n"
    end

    test "an address that is not this host's stops it" do
      assert {text, 1} = boot([{"ERL_EPMD_ADDRESS", "192.0.2.1"}])
      assert text =~ ~r/\Aembedded_epmd: cannot listen on 192\.0\.2\.1:\d+: [^\n]*\n\z/
    end

    test "a port that is held by something else stops it" do
      port = free_port()
      hold(port)
      assert {text, 1} = boot([{"ERL_EPMD_PORT", "#{port}"}])
      assert text =~ "127.0.0.1:#{port} is in use by a program that does not answer as an EPMD"
    end

    test "a library that cannot be loaded stops it, and is named with the reason and the remedy" do
      ebin = Path.join(Support.Folder.new("no_library"), "embedded_epmd/ebin")
      File.mkdir_p!(ebin)
      File.cp_r!(Path.join(:code.lib_dir(:embedded_epmd), "ebin"), ebin)

      assert {text, 1} = boot([], ebin)

      assert text =~
               ~r/\Aembedded_epmd: the native library .*epmd_nif.so cannot be loaded: .*; rebuild the release.*\n\z/

      library = Path.join([Path.dirname(ebin), "priv", "native", "epmd_nif.so"])
      File.mkdir_p!(Path.dirname(library))
      File.write!(library, "not an ELF file")
      assert {text, 1} = boot([], ebin)

      assert text =~
               ~r/\Aembedded_epmd: the native library .*epmd_nif.so cannot be loaded: .*; rebuild the release.*\n\z/
    end

    test "nobody may hear it, and then a crash dump has the sentence" do
      port = free_port()
      dump = Path.join(Support.Folder.new("detached"), "dump")
      hold(port)
      bad = "ERL_EPMD_PORT (-epmd_port) must be a port from 1 to 65535, got: \"0\"\n"
      held = "127.0.0.1:#{port} is in use by a program that does not answer as an EPMD"

      for {port, flags, redirection, status, sentence} <- [
            {"0", ["-detached"], "", 0, bad},
            {"0", [], " 2>/dev/null", 1, bad},
            {"#{port}", ["-detached"], "", 0, held}
          ] do
        environment = [{"ERL_EPMD_PORT", port}, {"ERL_CRASH_DUMP", dump}]
        assert {"", ^status} = boot(environment, nil, flags, redirection)
        eventually(fn -> match?({:ok, _}, File.read(dump)) and File.read!(dump) =~ "=end" end)
        assert File.read!(dump) =~ "\nSlogan: embedded_epmd: " <> sentence
        File.rm!(dump)
      end

      # Where it is heard, there is no need of one.
      assert {"embedded_epmd: ERL_EPMD_PORT" <> _, 1} = boot([{"ERL_EPMD_PORT", "0"}, {"ERL_CRASH_DUMP", dump}])
      refute File.exists?(dump)
    end

    test "the application environment counts" do
      port = free_port()

      assert {text, 0} =
               boot(
                 [{"ERL_EPMD_PORT", nil}],
                 nil,
                 ~w(-embedded_epmd port #{port} addresses ["<<\\"127.0.0.1\\">>"])
               )

      assert text =~ "port #{port}"
    end
  end

  defp boot(environment, ebin \\ nil, flags \\ [], redirection \\ "") do
    ebin = ebin || Path.join(:code.lib_dir(:embedded_epmd), "ebin")
    elixir = Path.join(:code.lib_dir(:elixir), "ebin")

    report = ~s|#{inspect(EmbeddedEpmd)}|
    say = ~s|io:format("port ~p", [maps:get(port, '#{"Elixir." <> report}':status())]), halt().|

    args =
      ~w(-noshell -start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery -name config@127.0.0.1) ++
        ["-pa", ebin, elixir] ++ flags ++ ["-eval", say]

    environment = [{"ERL_EPMD_PORT", "#{free_port()}"}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}] ++ environment

    shell = ["-c", "erl \"$@\"" <> redirection, "sh" | args]
    System.cmd("sh", shell, env: Map.to_list(Map.new(environment)), stderr_to_stdout: true)
  end
end
