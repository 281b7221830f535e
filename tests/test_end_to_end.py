def test_x(study):
    print(study.participant); print(study.group)
