class StateGauge:
    def __init__(self,*a): pass
    def set(self,*a): pass
