defmodule EmbeddedEpmd.LogTest do
  # Whatever this library logs is a report with its domain, and what it logs while the VM boots is seen.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.{Cluster, Discovery}
  alias Support.{Folder, Registration, Watch}

  setup :port_and_name

  test "while a VM boots", %{port: port, name: name} do
    hold(port)
    file = Path.join(Folder.new("log"), "log")
    formatter = "{logger_formatter,\#{template=>[domain,\" \",level,\" \",msg,\"\\n\"]}}"
    handler = "[{handler,default,logger_std_h,\#{config=>\#{file=>#{inspect(file)}},formatter=>#{formatter}}}]"
    start_ours(name, port, flags: ["-erl_epmd_port", "#{free_port()}", "-kernel", "logger", handler])

    eventually(fn -> File.read!(file) =~ "\n" end)

    assert File.read!(file) =~
             ~r/^ warning embedded_epmd: [^\n]*127\.0\.0\.1:#{port} is in use by a program that does not answer as an EPMD[^\n]*; the node goes on without EPMD, since its port is fixed\n/
  end

  for {who, has_standby} <- [nobody: false, "a standby": true] do
    test "when a VM stops that leaves nodes to #{who}", %{port: port, name: name} do
      file = Path.join(Folder.new("log"), "log")
      formatter = "{logger_formatter,\#{template=>[level,\" \",msg,\"\\n\"]}}"
      handler = "[{handler,file,logger_std_h,\#{config=>\#{file=>#{inspect(file)}},formatter=>#{formatter}}}]"
      vm = start_ours(name, port, flags: ["-kernel", "logger", handler])
      :ok = call(vm, Support.Vm.Application, :start)
      pid = pid(vm)

      if unquote(has_standby) do
        start_ours(unique("standby"), port)
        eventually(fn -> call(vm, EmbeddedEpmd, :status).standbys != [] end)
      end

      Registration.register("left", port)
      Process.unlink(vm)
      call(vm, :init, :stop)
      eventually(fn -> not File.exists?("/proc/#{pid}") end)
      told = ~r/^warning embedded_epmd: leaving the port without a standby: [^\n]* names=left$/m
      assert File.read!(file) =~ told == not unquote(has_standby)
    end
  end

  test "of a server that nobody supervises", %{port: port} do
    for supervised? <- [false, true] do
      vm = start_watched(unique("unclaimed"), port)
      if supervised?, do: supervise(vm)

      waits =
        for pid <- call(vm, :erlang, :processes, []), initial_call(vm, pid) == {Discovery, :await_claim, 1}, do: pid

      assert [pid] = waits
      # It waits for a minute, or less.
      call(vm, :erlang, :send, [pid, :time])
      eventually(fn -> not call(vm, :erlang, :is_process_alive, [pid]) end)

      sentence =
        "nobody supervises the server of this VM: add EmbeddedEpmd to the children of your application's supervisor"

      warned? = {:warning, sentence, %{what: sentence}} in call(vm, Watch, :seen).logged
      assert warned? != supervised?
    end
  end

  defp initial_call(vm, pid), do: with({_, call} <- call(vm, :erlang, :process_info, [pid, :initial_call]), do: call)

  test "of endpoints and of a cluster", %{port: port, name: name} do
    vm = start_watched(name, port)

    :ok = call(vm, :application, :set_env, [:embedded_epmd, :endpoints, :wrong])
    call(vm, Discovery, :address_please, [~c"app", ~c"127.0.0.1", :inet])

    sentence =
      "config :embedded_epmd, endpoints must be a list of nodes with endpoints, or {module, function}, got: wrong"

    eventually(fn -> {:error, sentence, %{what: sentence}} in call(vm, Watch, :seen).logged end)

    {:ok, cluster} = call(vm, Cluster, :start_link, [[nodes: "app*"]])
    node = %{name: "app1", port: 1, creation: 1, user: 4711}
    call(vm, :erlang, :send, [cluster, {:embedded_epmd, {:registered, node}}])
    sentence = "a node that fits the cluster belongs to user 4711: name the user in users: to connect to it"
    eventually(fn -> {:warning, sentence, %{what: sentence, name: "app1"}} in call(vm, Watch, :seen).logged end)
  end

  # What it logs from now on, Watch tells.
  defp start_watched(name, port) do
    vm = start_ours(name, port, flags: ~w(-kernel logger_level warning))
    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    call(vm, :logger, :remove_handler, [Logger])
    vm
  end
end
