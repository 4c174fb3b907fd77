defmodule EmbeddedEpmd.UmbrellaTest do
  # An umbrella from `mix new --umbrella` to `rpc`, as in guides/installation.md, and the doctor when `rpc` cannot reach the node.
  use ExUnit.Case, async: true

  import Support.{Umbrella, Vm}

  alias Support.{Release, Umbrella}

  setup_all do
    root = Umbrella.new()
    on_exit(fn -> clean_up(root) end)
    releases(root)
    folder = Path.dirname(root)
    assert {_, 0} = mix(root, ["embedded_epmd.install"])
    for name <- ["prod", "back"], do: assert({_, 0} = mix(root, ["release", name, "--path", Path.join(folder, name)]))
    %{folder: folder}
  end

  setup %{folder: folder} do
    node = unique("umbrella")
    tmp = Path.join(folder, node)
    File.mkdir_p!(tmp)
    release = %{folder: folder, tmp: tmp, node: node, port: free_port(), mode: "embedded"}
    on_exit(fn -> Release.clean_up(release) end)
    %{release: release}
  end

  test "a release of an umbrella serves, answers rpc and stops; one that lacks the library has no flags", context do
    %{release: release, folder: folder} = context
    pid = Release.start(release)
    assert {"serving\n", 0} = Release.run(release, "rpc", ["IO.puts(EmbeddedEpmd.status().role)"])
    assert {text, 0} = Release.run(release, "rpc", ["EmbeddedEpmd.doctor() == :ok || exit(:problem)"])
    assert text =~ "At 127.0.0.1 this node is found, with port"
    assert {_, 0} = Release.run(release, "stop")
    eventually(fn -> not Release.alive?(pid) end)

    for file <- ["vm.args", "remote.vm.args"],
        do: refute(File.read!(Path.join(folder, "back/releases/0.1.0/#{file}")) =~ ~r/^-/m)
  end

  test "eval finds the release before, while and after it runs", %{release: release} do
    doctor = ["IO.puts(EmbeddedEpmd.doctor())"]
    assert {before, 0} = Release.run(release, "eval", doctor)
    assert before =~ "warning  At 127.0.0.1 #{release.node}@127.0.0.1 is not found: connection refused."
    assert before =~ "ok       Nobody listens on port #{release.port}."
    assert before =~ "\nok\n"

    pid = Release.start(release)
    assert {running, 0} = Release.run(release, "eval", doctor)
    assert running =~ "ok       Port #{release.port} is owned by beam.smp (pid #{pid}, user id "
    assert running =~ "ok       At 127.0.0.1 #{release.node}@127.0.0.1 is found, with port"
    assert running =~ "ok       Registered on port #{release.port}: #{release.node}."
    assert running =~ "ok       The discovery module of this VM is EmbeddedEpmd.Discovery."
    refute running =~ "warning"
    assert {_, 0} = Release.run(release, "stop")
  end

  test "eval names what is missing where rpc does not get through", %{release: release} do
    # The daemon listens on 127.0.0.1 only, and the node's host has another address, like Debian's host names.
    epmd = start_daemon(release.port)
    release = Map.put(release, :host, "127.0.1.1")
    pid = Release.start(release)
    assert {_, status} = Release.run(release, "rpc", ["1"])
    assert status != 0

    assert {text, 0} = Release.run(release, "eval", ["IO.puts(EmbeddedEpmd.doctor())"])

    assert text =~
             "PROBLEM  At 127.0.1.1 #{release.node}@127.0.1.1 is not found: connection refused; it runs as pid #{pid}, and is found at 127.0.0.1."

    assert text =~ "Do: Listen on 127.0.1.1 as well"
    assert text =~ "warning  An epmd daemon has port #{release.port}: pid #{epmd}."
    assert text =~ "\nerror\n"
  end

  test "the files that the release was told to read are read", %{release: release} do
    remote = Path.join(release.tmp, "remote.vm.args")
    File.write!(remote, "+S 1\n")
    environment = [{"RELEASE_REMOTE_VM_ARGS", remote}]
    assert {text, 0} = Release.run(release, "eval", ["EmbeddedEpmd.doctor()"], environment)
    assert text =~ "PROBLEM  #{remote} does not have -start_epmd false."
    assert text =~ "Do: Write -start_epmd false into #{remote}."

    own = Path.join(release.tmp, "vm.args")
    File.write!(own, "-start_epmd false\n")
    environment = [{"RELEASE_VM_ARGS", own}]
    assert {text, 0} = Release.run(release, "eval", ["EmbeddedEpmd.doctor()"], environment)
    assert text =~ "PROBLEM  The discovery module of this VM is erl_epmd."
    assert text =~ "Do: Write -epmd_module Elixir.EmbeddedEpmd.Discovery into #{own} "
  end
end
