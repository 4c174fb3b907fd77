defmodule EmbeddedEpmd.ObstacleTest do
  # Where the system denies the sockets over which VMs stand by for each other, who has tried knows why.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Doctor
  alias Support.Folder

  setup do
    library = Path.join(Folder.new("obstacle"), "no_abstract_sockets.so")
    source = Path.expand("support/no_abstract_sockets.c", __DIR__)
    {_, 0} = System.cmd("cc", ["-shared", "-fPIC", "-o", library, source, "-ldl"])
    %{library: library, port: free_port()}
  end

  test "nothing keeps two VMs from standing by where nothing is denied", %{library: library, port: port} do
    [owner, follower] = pair(library, port, nil)
    eventually(fn -> call(follower, EmbeddedEpmd, :status).stands_by end)
    assert obstacle(owner) == nil and obstacle(follower) == nil
  end

  test "a denied name is told by the owner before anybody asks, and by the follower", %{library: library, port: port} do
    [owner, follower] = pair(library, port, "bind")
    reason = ~r"a security policy denies this process Unix sockets \(Permission denied.*embedded_epmd/"
    for vm <- [owner, follower], do: eventually(fn -> (obstacle(vm) || "") =~ reason end)
    assert text(owner) =~ ~r"warning  No VM can stand by for this one: a security policy denies"
    refute text(owner) =~ "Nobody stands by"
    assert text(follower) =~ ~r"warning  This VM cannot stand by for 127.0.0.1:#{port}: a security policy denies"
  end

  test "an owner that may not call says so, and the follower points to it", %{library: library, port: port} do
    [owner, follower] = pair(library, port, "connect")
    eventually(fn -> (obstacle(owner) || "") =~ "a security policy denies this process Unix sockets" end)
    eventually(fn -> (obstacle(follower) || "") =~ "the owner does not call back: its log and its doctor say why" end)
  end

  defp pair(library, port, deny) do
    environment = [{"LD_PRELOAD", library} | if(deny, do: [{"DENY", deny}], else: [])]
    for name <- ["owner", "follower"], do: start_ours(unique(name), port, env: environment)
  end

  defp obstacle(vm), do: call(vm, EmbeddedEpmd, :status).obstacle
  defp text(vm), do: Doctor.format(call(vm, EmbeddedEpmd, :examine))
end
