defmodule EmbeddedEpmd.Systemd.StoreTest do
  # The descriptor store of a service.
  use Support.ServiceCase

  test "no store: nodes are back after 2 seconds; it is told once, where systemd hears the service at all" do
    for {set, told} <- [{"FileDescriptorStoreMax=0", 0}, {"NotifyAccess=main", 1}] do
      install("prod", set)
      start_nodes("prod")
      stock = start_stock(2)
      assert {set, length(logged("prod", "has no descriptor store"))} == {set, told}
      restart_node("prod")
      took = milliseconds(fn -> await_nodes(stock) end)
      figure("#{set}: told #{told} times, stock nodes are found #{took} ms after the release")
      reset()
    end
  end

  test "a store that is too small keeps what fits, and it is told" do
    start_with_store(8)
    stock = start_stock(10)
    full = "descriptor store of this service is full"
    assert_within(10, journal("prod") =~ full)
    assert length(logged("prod", full)) == 1
    before = sockets(stock)
    kill_node("prod")
    await_nodes(stock)
    kept = Enum.count(sockets(stock), &(&1 in before))
    assert kept >= 5

    figure("of 10 nodes #{kept} kept their socket, the others registered again; #{stored("prod")} in a store of 8")
  end

  test "3,000 registrations in the store: all are there after a kill, and after a restart" do
    start_with_store(10_000)
    register_many(3_000)
    assert_within(60, length(names()) == 3_001)
    assert_within(60, stored("prod") >= 3_000)

    for {how, ending} <- [{"kill", &kill/1}, {"restart", &restart/1}] do
      took =
        milliseconds(fn ->
          ending.("prod")
          await_node("prod")
        end)

      assert {how, length(names())} == {how, 3_001}
      assert_within(60, stored("prod") >= 3_000)
      figure("#{how}: all there after #{took} ms")
    end

    # No connection ended.
    assert logged("other-many", "closed") == []
    figure("#{stored("prod")} descriptors stored")
  end

  test "4,500 registrations: 4,000 are kept, and it is told" do
    start_with_store(10_000)
    register_many(4_500)
    assert_within(120, length(names()) == 4_501)
    assert_within(120, journal("prod") =~ "no more nodes are stored")
    assert_within(120, stored("prod") >= 4_003)
    kept = stored("prod")
    kill_node("prod")
    names = length(names())
    assert names == 4_001
    figure("#{names} of 4,501 names after a kill, #{kept} descriptors stored")
  end

  test "where another release stands by, that one goes on, and the store is emptied" do
    start_with_store(100)
    start_stock(3)
    assert_within(10, stored("prod") >= 3)
    install("stage", "User=prod")
    start_nodes("stage")
    await_standbys("prod", 1)
    kill_node("prod")
    assert role("stage") == "serving"
    assert_within(10, stored("prod") == 0)
    figure("0 descriptors stored beside an owner")
  end

  defp start_with_store(size) do
    install("prod", ["FileDescriptorStoreMax=#{size}", "Restart=always"])
    start_nodes("prod")
  end

  defp register_many(count),
    do: start_unit("other-many", ~w(--property=LimitNOFILE=65536), ~w(elixir /opt/made/many.exs #{count}))
end
